"""Pooling of hidden states to one unit vector per text, as a sentence-transformers folder defines it."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from rlhf_jax.encoders.bert import read_json
from rlhf_jax.errors import UserError

type Pooling = Callable[[jax.Array, jax.Array], jax.Array]
"""`(hidden [B, T, D], mask [B, T]) -> [B, D]`."""


def _sum(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask[..., None], hidden, 0).sum(axis=1)


def _largest(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask[..., None], hidden, -jnp.inf).max(axis=1)


POOLING: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": _sum,  # a sum, since vectors are normalised
    "pooling_mode_cls_token": lambda hidden, mask: hidden[:, 0],
    "pooling_mode_max_tokens": _largest,
}
"""By name in a pooling config."""


def unit_vectors(pool: Pooling, hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Pools the states `[B, T, D]` over the tokens of `mask`, `[B, T]` bool, and normalises: `[B, D]`."""
    pooled = pool(hidden, mask)
    return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)


def read_pooling(path: Path) -> Pooling:
    """Reads the pooling of a sentence-transformers folder.

    Raises:
      UserError: modules.json lists modules beside Transformer, Pooling and perhaps Normalize, a file is missing, or
        1_Pooling/config.json chooses none or several of `POOLING`.
    """
    types = [module["type"].rpartition(".")[2] for module in read_json(path, "modules.json")]
    if types not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(
            f"{path / 'modules.json'} lists {', '.join(types)}, expected Transformer, Pooling and perhaps Normalize."
        )
    pooling = read_json(path, "1_Pooling/config.json")
    chosen = sorted(key for key, value in pooling.items() if key.startswith("pooling_mode_") and value)
    if len(chosen) != 1 or chosen[0] not in POOLING:
        raise UserError(
            f"{path / '1_Pooling/config.json'} chooses {', '.join(chosen) or 'nothing'}, expected one of "
            f"{', '.join(POOLING)}."
        )
    return POOLING[chosen[0]]
