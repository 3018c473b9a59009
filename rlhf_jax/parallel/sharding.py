"""The mesh of devices, and the sharding of arrays on it.

Every parameter declares its logical axes (`flax.linen.with_logical_partitioning`), and activations name theirs at block
borders. `Rules` map a logical axis to mesh axes. A program is compiled for all devices at once. Inputs are sharded
before a call, constraints shard activations inside, and the compiler adds the collectives (Xu et al., 2021).

    with sharding.use(config.mesh):
        params = sharding.place(array, axes)      # a parameter, by its logical axes
        batch = sharding.rows(batch)              # a batch, by its leading axis

Outside `use`, all of this is the identity and arrays are on the default device.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import jax
import numpy as np
from jax.sharding import AbstractDevice, AxisType, NamedSharding, PartitionSpec
from pydantic import Field

from rlhf_jax.errors import UserError
from rlhf_jax.parallel import hosts

AXES = ("data", "fsdp", "tensor")
AxisSize = Annotated[int, Field(ge=-1, lt=2**31)]
BATCH = AXES[:2]  # what rows are divided over: all that is not `tensor`


@dataclasses.dataclass(frozen=True)
class Rules:
    """Mesh axes that shard each logical axis of parameters and of arrays made from them. () replicates it.

    Attributes:
      embed: the width of the model.
      vocab: rows of the embedding and of the head.
      kv_heads: groups of heads that share keys and values, with their caches.
      mlp: features inside the MLP.

    Raises:
      UserError: a mesh axis is named twice.
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
        """The mesh axes that shard a logical axis. An axis without a rule is replicated."""
        return BATCH if axis == "batch" else vars(self).get(axis, ())


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Number of devices per axis. One axis may be -1, for all that are left.

    Attributes:
      data: copies of the parameters, each with its part of the batch.
      fsdp: parts of the batch whose parameters are sharded too, and gathered for use.
      tensor: parts of the heads, of the MLP's features and of the vocabulary.
      rules: logical axes that each mesh axis shards.

    Raises:
      UserError: a size that is not positive, or more than one -1.
    """

    data: AxisSize
    fsdp: AxisSize
    tensor: AxisSize
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
    """Arranges devices (by default all) as a mesh with the axes `AXES`. A smaller mesh takes the first devices.

    Raises:
      UserError: the sizes need more devices than there are, or do not divide those left for -1.
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
    """Compiles programs inside for a mesh of these sizes and its rules. Arguments and errors as `make_mesh`.

    The devices may be absent, as in the ahead-of-time check.
    """
    mesh = make_mesh(sizes, devices)
    with jax.set_mesh(mesh), _RULES(sizes.rules):
        yield mesh


@contextlib.contextmanager
def use(sizes: Mesh) -> Iterator[None]:
    """Runs everything inside on a mesh of these sizes, and prints a line if devices are left over.

    Raises:
      UserError: as `on_hosts`.
    """
    with on_hosts(sizes) as mesh:
        if mesh.size < jax.device_count():
            print(f"the mesh is {sizes}: {mesh.size} of {jax.device_count()} devices are used", flush=True)
        yield


@contextlib.contextmanager
def on_hosts(sizes: Mesh) -> Iterator[jax.sharding.Mesh]:
    """As `arrange`, on the devices of all processes.

    Raises:
      UserError: as `make_mesh`, or `--hosts` does not match the processes, or one process has no device of the mesh.
    """
    with arrange(sizes) as mesh:
        if jax.process_count() != hosts.count():
            raise UserError(f"--hosts is {hosts.count()} and these devices belong to {jax.process_count()} processes")
        if without := {device.process_index for device in jax.devices()} - {d.process_index for d in mesh.devices.flat}:
            raise UserError(
                f"the mesh is {sizes}: {mesh.size} of {jax.device_count()} devices, none of process "
                f"{', '.join(map(str, sorted(without)))}; several hosts expect devices of each, best all (data -1)"
            )
        yield mesh


def device() -> jax.Device | AbstractDevice:
    """One of the devices that programs are compiled for now. It is abstract if it belongs to another platform."""
    mesh = jax.sharding.get_abstract_mesh()
    ours = mesh.empty or mesh.abstract_device.platform == jax.default_backend()
    return jax.devices()[0] if ours else mesh.abstract_device


def device_count() -> int:
    """Number of devices in the current mesh, 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def spec(axes: Sequence[str | None]) -> PartitionSpec:
    """The mesh axes of an array with these logical axes, by the rules in use."""
    return PartitionSpec(*(_RULES.value.of(axis) or None for axis in axes))


def shards(axis: str) -> int:
    """Number of devices that shard a logical axis in the current mesh, 1 without a mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(name, 1) for name in _RULES.value.of(axis))


def check_rows(settings: Any, *names: str, where: str = "config") -> None:
    """Raises UserError if any of the named batch sizes is not divisible by the number of data-parallel devices.

    The message names the nearest divisible size.
    """
    shared = shards("batch")
    for name in names:
        if (rows := getattr(settings, name)) % shared:
            nearest = max(1, round(rows / shared)) * shared
            raise UserError(f"{where}.{name} is {rows}, which {shared} devices do not divide; {nearest} they do")


def place(array: np.ndarray | jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Puts an array of any shape on the mesh, sharded by its logical axes.

    Raises:
      UserError: the mesh does not divide an axis. It is named.
    """
    _check_divided(array.shape, axes)
    return _put(array, spec(axes))


def abstract(shape: Sequence[int], dtype: Any, axes: Sequence[str | None]) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of the result of `place`. Raises as `place` does."""
    _check_divided(shape, axes)
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=_named(spec(axes)))


def rows(tree: Any) -> Any:
    """Shards a batch by its leading axis. Rows that are not this host's `own_rows` may hold anything."""
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
    """Gathers a pytree of arrays as NumPy arrays. Every host has to call it."""
    if hosts.count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(_gathered, tree)


def spread(tree: Any) -> Any:
    """Replicates the arrays of a pytree on every device, except those that are placed already."""
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, jax.Array) and leaf.committed else _put(leaf, PartitionSpec()), tree
    )


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Inside a program: shards the first axes of `x` as named, and replicates the others."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes))


def on_each(
    function: Callable[..., jax.Array], axes: Sequence[Sequence[str | None]], result: Sequence[str | None]
) -> Callable[..., jax.Array]:
    """Runs `function` on each device's own shards, for code that the compiler cannot shard, such as a kernel.

    Args:
      function: of arrays. Its result for one shard does not depend on other shards.
      axes: the logical axes of each argument.
      result: the logical axes of the result.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    return jax.shard_map(function, in_specs=tuple(map(spec, axes)), out_specs=spec(result), check_vma=False)


def _check_divided(shape: Sequence[int], axes: Sequence[str | None]) -> None:
    for axis, size in zip(axes, shape, strict=True):
        if axis and size % shards(axis):
            raise UserError(
                f"the mesh divides {axis} over {shards(axis)} devices and {size} cannot be divided so; "
                f"mesh.rules.{axis}=() would leave it whole"
            )


def _put(array: np.ndarray | jax.Array, partition: PartitionSpec) -> jax.Array:
    place = _named(partition)
    if hosts.count() == 1:
        return jax.device_put(array, place)
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(array), partition))
    host = np.asarray(jax.device_get(array))  # whole on every host
    # Put in so many words: `jax.make_array_from_callback` transfers implicitly, which the step's guard refuses.
    shares = [
        jax.device_put(host[index], device)
        for device, index in place.addressable_devices_indices_map(host.shape).items()
    ]
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
