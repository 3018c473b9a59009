"""Rows that the tables of a vocabulary have on a mesh and not in files: those that let devices share them evenly.

They are zero, and so are their gradients and moments: no token has their ids. Files leave them out, so that they do not
depend on the mesh.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

TABLES = ("embed/table", "head/table")


def cut(tree: Any, vocabulary: int) -> Any:
    """A pytree whose tables, `[V or more, E]` at the ends of paths in `TABLES`, have as many rows as the vocabulary.

    Args:
      tree: of arrays or of `jax.ShapeDtypeStruct`s with shardings; what is cut lies with all its rows on each device.
      vocabulary: V.
    """
    return jax.tree.map_with_path(lambda path, leaf: _cut(leaf, vocabulary) if _is_table(path) else leaf, tree)


def pad(table: Any, like: Any) -> Any:
    """`table` with rows of zeros up to the shape of `like`: a NumPy array as such, another lying as `like` does."""
    missing = like.shape[0] - table.shape[0] if like.shape else 0
    if not missing:
        return table
    if isinstance(table, np.ndarray):
        return np.pad(table, ((0, missing), (0, 0)))
    return jax.device_put(jnp.pad(table, ((0, missing), (0, 0))), like.sharding)


def _is_table(path: tuple[Any, ...]) -> bool:
    return jax.tree_util.keystr(path, simple=True, separator="/").endswith(TABLES)


def _cut(table: Any, rows: int) -> Any:
    if table.shape[0] == rows:
        return table
    if isinstance(table, np.ndarray):
        return table[:rows]
    place = table.sharding
    if isinstance(place, NamedSharding):
        place = NamedSharding(place.mesh, PartitionSpec(None, *place.spec[1:]))
    if isinstance(table, jax.ShapeDtypeStruct):
        return table.update(shape=(rows, *table.shape[1:]), sharding=place)
    return _cutter(rows, place)(table)


@functools.cache  # so that a run compiles it once, and not at every checkpoint
def _cutter(rows: int, place: Sharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda table: table[:rows], out_shardings=place)
