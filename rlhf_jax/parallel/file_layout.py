"""Converts parameters between their form in memory and their form in files.

In memory, scanned blocks are stacked and the vocabulary may be padded. Files store each block separately, without
padding, so they do not depend on scanning or on the mesh.

In a nested dict of parameters, or of anything with their shape, `layers` has one entry per group of blocks:
`layers/31/qkv/kernel` is block 31's own, `layers/25-30/qkv/kernel` holds six blocks with one more axis in front.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

TABLES = ("embed/table", "head/table")


def group_name(blocks: range) -> str:
    """The key of a group of blocks: "31" or "25-30"."""
    return str(blocks[0]) if len(blocks) == 1 else f"{blocks[0]}-{blocks[-1]}"


def blocks_of(name: str) -> range:
    """The blocks under a key."""
    first, _, last = name.partition("-")
    return range(int(first), int(last or first) + 1)


def block_paths(path: str) -> list[str]:
    """The path of each block in files, for a leaf's path joined by "/"."""
    before, layers, after = path.rpartition("layers/")
    if not layers:
        return [path]
    key, _, rest = after.partition("/")
    return [f"{before}{layers}{i}/{rest}" for i in blocks_of(key)]


def stacked(tree: Any, groups: Sequence[range]) -> Any:
    """Stacks the blocks of each group.

    Args:
      tree: a pytree of arrays with each block separate. Dicts with the key `layers` may be anywhere in it, and may lack
        some groups.
      groups: the blocks of each group, in order.
    """

    def join(layers: dict[str, Any]) -> dict[str, Any]:
        own = [group for group in groups if str(group[0]) in layers]
        return {group_name(group): _join([layers[str(i)] for i in group]) for group in own}

    return _each_layers(join, tree)


def unstacked(tree: Any) -> Any:
    """Separates the blocks of each group. Leaves may be arrays or `jax.ShapeDtypeStruct`s."""

    def cut(layers: dict[str, Any]) -> dict[str, Any]:
        return {
            str(i): block
            for key, group in layers.items()
            for i, block in zip(blocks_of(key), _cut(group, len(blocks_of(key))), strict=True)
        }

    return _each_layers(cut, tree)


def cut_vocabulary(tree: Any, vocabulary: int) -> Any:
    """Cuts the padding rows off the tables in a pytree, which are zero: no token has their ids.

    Args:
      tree: arrays, or `jax.ShapeDtypeStruct`s with shardings. Tables `[V or more, E]` are at paths that end in
        `TABLES`. A cut table has all rows on each device.
      vocabulary: V.
    """

    def cut(path: tuple[Any, ...], leaf: Any) -> Any:
        is_table = jax.tree_util.keystr(path, simple=True, separator="/").endswith(TABLES)
        return _cut_table(leaf, vocabulary) if is_table and leaf.shape[0] != vocabulary else leaf

    return jax.tree.map_with_path(cut, tree)


def pad_vocabulary(table: Any, like: Any) -> Any:
    """Pads a table with zero rows to the shape of `like`. A JAX array also gets its sharding."""
    missing = like.shape[0] - table.shape[0] if like.shape else 0
    if not missing:
        return table
    if isinstance(table, np.ndarray):
        return np.pad(table, ((0, missing), (0, 0)))
    return jax.device_put(jnp.pad(table, ((0, missing), (0, 0))), like.sharding)


def _each_layers(change: Callable[[dict[str, Any]], dict[str, Any]], tree: Any) -> Any:
    """Applies `change` to every `layers` in a pytree."""

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


def _cut(group: Any, count: int) -> list[Any]:
    if count == 1:
        return [group]
    parts = jax.tree.map(_parts, group)
    return [jax.tree.map(lambda part, i=i: part[i], parts, is_leaf=lambda x: isinstance(x, list)) for i in range(count)]


def _parts(leaf: Any) -> list[Any]:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return [leaf.update(shape=leaf.shape[1:], sharding=_without_first(leaf.sharding))] * leaf.shape[0]
    return [leaf[i] for i in range(leaf.shape[0])]  # an array of several hosts cannot be iterated over


def _without_first(sharding: Any) -> Any:
    """Sharding of one block, given its stack's: drop the leading axis."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return sharding


def _cut_table(table: Any, rows: int) -> Any:
    if isinstance(table, np.ndarray):
        return table[:rows]
    whole = table.sharding
    if isinstance(whole, NamedSharding):
        whole = NamedSharding(whole.mesh, PartitionSpec(None, *whole.spec[1:]))
    if isinstance(table, jax.ShapeDtypeStruct):
        return table.update(shape=(rows, *table.shape[1:]), sharding=whole)
    return _cutter(rows, whole)(table)


@functools.cache  # compiled once per run, not at every checkpoint
def _cutter(rows: int, sharding: Sharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda table: table[:rows], out_shardings=sharding)
