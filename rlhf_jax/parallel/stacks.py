"""Blocks that are held as one array a parameter, and the same blocks each for itself.

In a nested dict of parameters, or of anything that is shaped like them, `layers` has an entry for each run of blocks:
`layers/31/qkv/kernel` is block 31's own, `layers/25-30/qkv/kernel` those of six blocks with one more axis in front. In
memory a network may have either form (`models.scan`); files have each block for itself, so that they do not depend on
the form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def name(blocks: range) -> str:
    """The key of a run of blocks: "31" or "25-30"."""
    return str(blocks[0]) if len(blocks) == 1 else f"{blocks[0]}-{blocks[-1]}"


def blocks(name: str) -> range:
    """The blocks under a key."""
    first, _, last = name.partition("-")
    return range(int(first), int(last or first) + 1)


def paths(path: str) -> list[str]:
    """The paths of each block for itself, of a leaf's path joined by "/"."""
    before, layers, after = path.rpartition("layers/")
    if not layers:
        return [path]
    key, _, rest = after.partition("/")
    return [f"{before}{layers}{i}/{rest}" for i in blocks(key)]


def stacked(tree: Any, runs: Sequence[range]) -> Any:
    """A pytree that has each block for itself, with the blocks of each run together.

    Args:
      tree: of arrays; dicts with the key `layers` may stand anywhere in it, and may lack some runs.
      runs: the blocks of each, in order.
    """

    def join(layers: dict[str, Any]) -> dict[str, Any]:
        own = [run for run in runs if str(run[0]) in layers]
        return {name(run): _join([layers[str(i)] for i in run]) for run in own}

    return _each_layers(join, tree)


def unstacked(tree: Any) -> Any:
    """A pytree with each block for itself; its leaves may be arrays or `jax.ShapeDtypeStruct`s."""

    def cut(layers: dict[str, Any]) -> dict[str, Any]:
        return {
            str(i): block
            for key, run in layers.items()
            for i, block in zip(blocks(key), _cut(run, len(blocks(key))), strict=True)
        }

    return _each_layers(cut, tree)


def _each_layers(change: Callable[[dict[str, Any]], dict[str, Any]], tree: Any) -> Any:
    """A pytree with every `layers` in it changed."""

    def has_layers(node: Any) -> bool:
        return isinstance(node, dict) and "layers" in node

    def visit(node: Any) -> Any:
        if not has_layers(node):
            return node
        rest = {key: _each_layers(change, value) for key, value in node.items() if key != "layers"}
        return {**rest, "layers": change(node["layers"])}

    return jax.tree.map(visit, tree, is_leaf=has_layers)


def _join(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *x: np.stack(x) if isinstance(x[0], np.ndarray) else jnp.stack(x), *parts)


def _cut(run: Any, count: int) -> list[Any]:
    if count == 1:
        return [run]
    parts = jax.tree.map(_parts, run)
    return [jax.tree.map(lambda part, i=i: part[i], parts, is_leaf=lambda x: isinstance(x, list)) for i in range(count)]


def _parts(leaf: Any) -> list[Any]:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return [leaf.update(shape=leaf.shape[1:], sharding=_without_first(leaf.sharding))] * leaf.shape[0]
    return [leaf[i] for i in range(leaf.shape[0])]  # what several hosts share cannot be iterated over


def _without_first(sharding: Any) -> Any:
    """Where a block lies whose stack lies so: the first axis of a stack is not divided."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return sharding
