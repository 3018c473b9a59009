"""The mesh of devices, and where arrays lie on it.

Every parameter names its logical axes where it is declared (`flax.linen.with_logical_partitioning`), activations name
theirs at block borders; `Rules` say which axes of the mesh a logical axis is divided over. Programs are compiled for
all devices at once: inputs are put where they belong before a call, constraints hold activations there inside, and
collectives between are the compiler's (Xu et al., 2021).

    with sharding.use(config.mesh):
        params = sharding.place(array, axes)      # a parameter, by its logical axes
        batch = sharding.rows(batch)              # a batch, by its leading axis

Outside `use` all of this is the identity and everything lies on the default device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AbstractDevice, AxisType, NamedSharding, PartitionSpec

from rlhf_jax.errors import UserError
from rlhf_jax.parallel import hosts

AXES = ("data", "fsdp", "tensor")
BATCH = AXES[:2]  # what rows are divided over: all that is not `tensor`


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which axes of the mesh divide each logical axis of parameters, and of what is made of them; () leaves it whole.

    Attributes:
      embed: the width of the model.
      vocab: rows of the embedding and of the head.
      kv_heads: groups of heads that share keys and values, with their caches.
      mlp: features inside the MLP.

    Raises:
      UserError: an axis of the mesh is named twice.
    """

    embed: tuple[Literal["data", "fsdp"], ...] = ("fsdp",)
    vocab: tuple[Literal["tensor"], ...] = ("tensor",)
    kv_heads: tuple[Literal["tensor"], ...] = ("tensor",)
    mlp: tuple[Literal["tensor"], ...] = ("tensor",)

    def __post_init__(self) -> None:
        for name, axes in vars(self).items():
            if len(set(axes)) < len(axes):
                raise UserError(f"mesh.rules.{name} is {axes}; expected each axis of the mesh once")

    def of(self, axis: str | None) -> tuple[str, ...]:
        """The mesh axes that divide a logical axis; one that has no rule is whole."""
        return BATCH if axis == "batch" else vars(self).get(axis, ())


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How many devices each axis has; one of them may be -1, which is all that are left.

    Attributes:
      data: copies of the parameters, each with a share of the batch.
      fsdp: shares of the batch whose parameters are divided too, and gathered where they are used.
      tensor: shares of the heads, of the MLP's features and of the vocabulary.
      rules: what is divided over which of them.

    Raises:
      UserError: a size that is not positive, or more than one -1.
    """

    data: int
    fsdp: int
    tensor: int
    rules: Rules = Rules()

    @property
    def shape(self) -> tuple[int, ...]:
        """By the order of `AXES`."""
        return self.data, self.fsdp, self.tensor

    def __post_init__(self) -> None:
        known = [size for size in self.shape if size != -1]
        if len(known) < len(AXES) - 1 or any(size < 1 for size in known):
            raise UserError(f"the mesh is {self}; expected sizes of 1 or more, or -1 once for all that are left")

    def __str__(self) -> str:
        return " x ".join(f"{name} {size}" for name, size in zip(AXES, self.shape, strict=True))


# jit keeps programs apart by it, as it does by the mesh.
_RULES = jax.make_user_context(Rules())


def make_mesh(sizes: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The devices (by default all that there are) as a mesh with the axes `AXES`; fewer than there are are the first.

    Raises:
      UserError: the sizes ask for more devices than there are, or those that are left for -1 cannot be divided so.
    """
    devices = jax.devices() if devices is None else devices
    known = math.prod(size for size in sizes.shape if size != -1)
    if known > len(devices) or (-1 in sizes.shape and len(devices) % known):
        raise UserError(f"the mesh is {sizes}, which does not fit {len(devices)} devices")
    shape = [len(devices) // known if size == -1 else size for size in sizes.shape]
    types = (AxisType.Auto,) * len(AXES)
    if math.prod(shape) == len(devices):
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    some = np.array(devices[: math.prod(shape)], object)  # the topology of only some of them has no name
    return jax.sharding.Mesh(some.reshape(shape), AXES, axis_types=types)


@contextlib.contextmanager
def arrange(sizes: Mesh, devices: Sequence[jax.Device] | None = None) -> Iterator[jax.sharding.Mesh]:
    """Programs inside are made for a mesh of these sizes and divided by its rules; arguments and errors as `make_mesh`.

    None of the devices has to be here.
    """
    mesh = make_mesh(sizes, devices)
    with jax.set_mesh(mesh), _RULES(sizes.rules):
        yield mesh


@contextlib.contextmanager
def use(sizes: Mesh) -> Iterator[None]:
    """Everything inside runs on a mesh of these sizes; says so where devices are left over.

    Raises:
      UserError: as `make_mesh`; several hosts, of which one would have no device of the mesh, or that were not told of.
    """
    with arrange(sizes) as mesh:
        if jax.process_count() != hosts.count():
            raise UserError(f"--hosts is {hosts.count()} and these devices belong to {jax.process_count()} processes")
        if without := {device.process_index for device in jax.devices()} - {d.process_index for d in mesh.devices.flat}:
            raise UserError(
                f"the mesh is {sizes}: {mesh.size} of {jax.device_count()} devices, none of process "
                f"{', '.join(map(str, sorted(without)))}; several hosts expect devices of each, best all (data -1)"
            )
        if mesh.size < jax.device_count():
            print(f"the mesh is {sizes}: {mesh.size} of {jax.device_count()} devices are used", flush=True)
        yield


def device() -> jax.Device | AbstractDevice:
    """One of the devices that programs are compiled for now; of another platform than this process's it is abstract."""
    mesh = jax.sharding.get_abstract_mesh()
    ours = mesh.empty or mesh.abstract_device.platform == jax.default_backend()
    return jax.devices()[0] if ours else mesh.abstract_device


def device_count() -> int:
    """How many devices the mesh in use has; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def spec(axes: Sequence[str | None]) -> PartitionSpec:
    """The mesh axes of an array with these logical axes, by the rules in use."""
    return PartitionSpec(*(_RULES.value.of(axis) or None for axis in axes))


def shares(axis: str) -> int:
    """Over how many devices of the mesh in use a logical axis is divided; 1 without a mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(name, 1) for name in _RULES.value.of(axis))


def check_rows(settings: Any, *names: str, where: str = "config") -> None:
    """Raises UserError unless the devices that share a batch divide the rows that each named field of a config is.

    It names the nearest number that they do.
    """
    shared = shares("batch")
    for name in names:
        if (rows := getattr(settings, name)) % shared:
            nearest = max(1, round(rows / shared)) * shared
            raise UserError(
                f"{where}.{name} is {rows}, which {shared} devices cannot share evenly; {nearest} they could"
            )


def place(array: np.ndarray | jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """An array of any shape where its logical axes put it.

    Raises:
      UserError: an axis that the mesh does not divide; it is named.
    """
    _check_divided(array.shape, axes)
    return _put(array, spec(axes))


def abstract(shape: Sequence[int], dtype: Any, axes: Sequence[str | None]) -> jax.ShapeDtypeStruct:
    """Shape, dtype and place of what `place` makes of such an array; raises as `place` does."""
    _check_divided(shape, axes)
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=_named(spec(axes)))


def rows(tree: Any) -> Any:
    """A batch, its leading axis divided; what a host has in rows that are not its `own_rows` does not matter."""
    return jax.tree.map(lambda leaf: _put(leaf, spec(("batch",))), tree)


def own_rows(count: int) -> np.ndarray:
    """`[count]` bool: the rows of a batch that `rows` puts on devices of this host, which need no others from it."""
    place = _named(spec(("batch",)))
    if place is None:
        return np.ones(count, bool)
    own = np.zeros(count, bool)
    for (share,) in place.addressable_devices_indices_map((count,)).values():
        own[share] = True
    return own


def whole(tree: Any) -> Any:
    """A pytree of arrays as NumPy arrays, those that are divided joined again; every host has to ask for them."""
    if hosts.count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(_gathered, tree)


def spread(tree: Any) -> Any:
    """A pytree of arrays of which those that are not placed yet lie whole on every device."""
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, jax.Array) and leaf.committed else _put(leaf, PartitionSpec()), tree
    )


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Inside a program: `x` is to lie as its first axes say, the others whole."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes))


def on_each(
    function: Callable[..., jax.Array], axes: Sequence[Sequence[str | None]], result: Sequence[str | None]
) -> Callable[..., jax.Array]:
    """`function` of each device's own shares, for what the compiler cannot divide, such as a kernel.

    Args:
      function: of arrays; what it computes for a share does not depend on the other shares.
      axes: of each argument, its logical axes.
      result: those of the result.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    return jax.shard_map(function, in_specs=tuple(map(spec, axes)), out_specs=spec(result), check_vma=False)


def _check_divided(shape: Sequence[int], axes: Sequence[str | None]) -> None:
    for axis, size in zip(axes, shape, strict=True):
        if axis and size % shares(axis):
            raise UserError(
                f"the mesh divides {axis} over {shares(axis)} devices and {size} cannot be divided so; "
                f"mesh.rules.{axis}=() would leave it whole"
            )


def _put(array: np.ndarray | jax.Array, partition: PartitionSpec) -> jax.Array:
    place = _named(partition)
    if hosts.count() == 1:
        return jax.device_put(array, place)
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(array), partition))
    host = np.asarray(jax.device_get(array))  # of its size on every host, which gives its own devices their shares
    indices = place.addressable_devices_indices_map(host.shape)
    shares = [jax.device_put(host[index], device) for device, index in indices.items()]
    return jax.make_array_from_single_device_arrays(host.shape, place, shares)


def _gathered(array: np.ndarray | jax.Array) -> np.ndarray:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = jax.jit(_same, out_shardings=_named(PartitionSpec()))(array)
    return jax.device_get(array)


def _same(array: jax.Array) -> jax.Array:
    return array


def _named(partition: PartitionSpec) -> NamedSharding | None:
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else NamedSharding(mesh, partition)
