"""Random parameters of a network, which name their logical axes.

Shape letters as in `transformer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlhf_jax.models.architecture import POSITION_OFFSET, Architecture
from rlhf_jax.models.block import NORMS, Angles, Block


def random_parameters(
    a: Architecture, blocks: Sequence[Block], rows: int, angles: Angles | None, key: jax.Array
) -> dict[str, Any]:
    """All parameters in float32, each block for itself, boxed with their logical axes.

    Args:
      a: the architecture.
      blocks: the module of each block.
      rows: of the embedding and the LM head.
      angles: rotary angles of one token, or None.
      key: PRNG key.
    """
    *layers, embed, positions, project_in, head, project_out = jax.random.split(key, a.layers + 5)
    x = jnp.zeros((1, 1, a.width))
    params: dict[str, Any] = {"embed": {"table": _table(embed, rows, a.outer_width, "vocab")}}
    if a.rotary is None:
        params["embed"]["positions"] = _table(positions, a.max_length + POSITION_OFFSET, a.width, "positions")
    if a.embed_width:
        params["embed"]["project"] = _project(project_in, a.outer_width, a.width)
    params["layers"] = {
        str(i): block.init(layers[i], x, angles, lambda q, k, v: q)["params"] for i, block in enumerate(blocks)
    }
    if a.final_norm:
        params["norm"] = NORMS[a.norm](a.epsilon).init(key, x)["params"]
    if not a.tied:
        params["head"] = {"table": _table(head, rows, a.outer_width, "vocab")}
    if a.embed_width:
        params.setdefault("head", {})["project"] = _project(project_out, a.width, a.outer_width)
    return params


def _table(key: jax.Array, rows: int, width: int, axis: str) -> Any:
    init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (axis, "embed"))
    return init(key, (rows, width), jnp.float32)


def _project(key: jax.Array, rows: int, columns: int) -> Any:
    init = nn.with_logical_partitioning(nn.initializers.normal(rows**-0.5), (None, "embed"))
    return init(key, (rows, columns), jnp.float32)
