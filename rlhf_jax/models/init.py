"""Random parameters of a network, which name their logical axes.

Shape letters as in `transformer.py`.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlhf_jax.models.architecture import POSITION_OFFSET, Architecture
from rlhf_jax.models.block import NORMS, Block
from rlhf_jax.models.layers import Angles


def random_parameters(
    a: Architecture, blocks: Sequence[Block], rows: int, angles: Angles | None, key: jax.Array
) -> dict[str, Any]:
    """All parameters in float32, each block separately, boxed with their logical axes.

    `rows` are those of the embedding and the LM head. `angles` are the rotary angles of one token, or None.
    """
    *layers, embed, positions, project_in, head, project_out = jax.random.split(key, a.layers + 5)
    x = jnp.zeros((1, 1, a.width))
    params: dict[str, Any] = {"embed": {"table": _table(embed, rows, a.outer_width, "vocab")}}
    if a.rotary is None:
        params["embed"]["positions"] = _table(positions, a.max_length + POSITION_OFFSET, a.width, "positions")
    if a.embed_width:
        params["embed"]["project"] = _table(project_in, a.outer_width, a.width, None, a.outer_width**-0.5)
    params["layers"] = {
        str(i): block.init(layers[i], x, angles, lambda q, k, v: q)["params"] for i, block in enumerate(blocks)
    }
    if a.final_norm:
        params["norm"] = NORMS[a.norm](a.epsilon).init(key, x)["params"]
    if not a.tied:
        params["head"] = {"table": _table(head, rows, a.outer_width, "vocab")}
    if a.embed_width:
        params.setdefault("head", {})["project"] = _table(project_out, a.width, a.outer_width, None, a.width**-0.5)
    return params


def _table(key: jax.Array, rows: int, width: int, axis: str | None, std: float = 0.02) -> Any:
    """A matrix `[rows, width]`, the logical axis of the rows being `axis`."""
    init = nn.with_logical_partitioning(nn.initializers.normal(std), (axis, "embed"))
    return init(key, (rows, width), jnp.float32)
