"""A run's arrays as shapes, dtypes and places on the mesh in use, without their contents."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.models.quantize import is_quantised
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Model, Params
from rlhf_jax.parallel import sharding
from rlhf_jax.rl.ppo_config import Algorithm
from rlhf_jax.training.state import State


def parameters(model: Model) -> tuple[Params, Params]:
    """`(trunk, top)` in the dtypes and places that `models.hf.pretrained.load` gives them."""
    axes = model.logical_axes()

    def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        dtype = model.dtype if model.is_frozen(name) else jnp.float32
        return sharding.abstract(leaf.shape, jnp.int8 if is_quantised(name, axes) else dtype, axes[name])

    shapes = nn.meta.unbox(jax.eval_shape(lambda: model.init(jax.random.key(0))))
    return model.split(jax.tree.map_with_path(place, shapes))


def whole(tree: Any) -> Any:
    """A pytree of shapes, each array whole on every device, as `parallel.sharding.spread` places it."""
    return jax.tree.map(lambda leaf: sharding.abstract(leaf.shape, leaf.dtype, (None,) * leaf.ndim), tree)


def rows(tree: Any) -> Any:
    """A pytree of shapes, each divided by its leading axis, as `parallel.sharding.rows` places it."""
    return jax.tree.map(
        lambda leaf: sharding.abstract(leaf.shape, leaf.dtype, ("batch", *(None,) * (leaf.ndim - 1))), tree
    )


def with_head(model: Model, top: Params, role: str) -> Params:
    """A top with the head of a role."""
    return {**top, role: whole({"kernel": jax.ShapeDtypeStruct((model.architecture.outer_width,), jnp.float32)})}


def alike(tree: Any) -> Any:
    """Other arrays of the same shapes in the same places."""
    return jax.tree.map(lambda leaf: leaf.update(), tree)


def value(model: Model, settings: Algorithm, top: Params) -> Params:
    """Shapes of the result of `rl.ppo_loss.start_value`: a head, perhaps a bias and a top of its own."""
    head = with_head(model, {}, "value")["value"]
    if settings.value_start == "reward":
        head |= whole({"bias": jax.ShapeDtypeStruct((), jnp.float32)})
    return {**head, "top": alike(top)} if settings.value_model == "separate" else head


def state(cls: type[State], top: Params, transform: optax.GradientTransformation, **more: Any) -> State:
    """A run's state before its first step. The optimiser's moments lie as their parameters do."""
    structure = jax.tree.structure(top)

    def like_top(tree: Any) -> bool:
        return jax.tree.structure(tree) == structure

    moments = jax.tree.map(
        lambda tree: alike(top) if like_top(tree) else whole(tree),
        jax.eval_shape(transform.init, top),
        is_leaf=like_top,
    )
    count = whole(jax.ShapeDtypeStruct((), jnp.int32))
    return cls(step=count, position=count, top=top, moments=moments, **more)


def sequences(prompts: int, samples: int, prompt: int, response: int) -> Sequences:
    """A batch of `prompts` rows of `samples` responses, in buffers of those lengths (tokens)."""
    tokens = {"prompt": (prompts, prompt), "response": (prompts, samples, response)}
    ids = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in tokens.items()}
    masks = {f"{name}_mask": jax.ShapeDtypeStruct(shape, jnp.bool) for name, shape in tokens.items()}
    return rows(Sequences(**ids, **masks))


def key() -> jax.ShapeDtypeStruct:
    """A PRNG key."""
    return jax.eval_shape(lambda: jax.random.key(0))


def device_bytes(tree: Any) -> int:
    """Bytes of a pytree of shapes on each device."""
    return sum(map(_leaf_bytes, jax.tree.leaves(tree)))


def bytes_beside(resident: Any, arguments: Any) -> int:
    """Bytes on each device of the resident arrays that are not among the arguments."""
    taken = {id(leaf) for leaf in jax.tree.leaves(arguments)}
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(resident) if id(leaf) not in taken)


def _leaf_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    placed = leaf.sharding or NamedSharding(jax.sharding.get_mesh(), PartitionSpec())
    return math.prod(placed.shard_shape(leaf.shape)) * leaf.dtype.itemsize
