"""Whole texts to raw scores of a reward model: what `reward` and `score` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np

from rlhf_jax import sharding
from rlhf_jax.models import roles
from rlhf_jax.models.transformer import Model, Params
from rlhf_jax.sequences import Sequences
from rlhf_jax.training.run import jit


def raw_scores(model: Model, trunk: Params, top: Params, batch: Sequences) -> jax.Array:
    """Raw scores `[B, N]` float32 of N responses to each prompt, trunk and top."""
    return roles.score_edge(model, trunk, top, batch, model.trunk(trunk, batch))


def make_score(model: Model) -> Callable[[Params, Params, Sequences], jax.Array]:
    """`(trunk, top, batch) -> [B, N]` raw scores, jitted."""
    return jit(partial(raw_scores, model))


def score_batches(
    score: Callable[..., Any], trunk: Params, top: Params, batches: Iterable[tuple[Sequences, int]]
) -> np.ndarray:
    """Raw scores `[rows, N]` float64 of all the real rows of batches, which come with their number."""
    return np.concatenate(
        [jax.device_get(score(trunk, top, sharding.rows(batch))).astype(np.float64)[:rows] for batch, rows in batches]
    )
