"""Whole texts to raw scores of a reward model: what `reward` and `score` share."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np

from rlhf_jax.models import heads
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Edge, Model, Params
from rlhf_jax.parallel import sharding
from rlhf_jax.parallel.jit import jit

Score = Callable[[Params, Sequences, Edge], jax.Array]


def raw_scores(model: Model, trunk: Params, top: Params, batch: Sequences) -> jax.Array:
    """Raw scores `[B, N]` float32 of N responses to each prompt, trunk and top."""
    return heads.score_edge(model, trunk, top, batch, model.trunk(trunk, batch))


def make_score(model: Model) -> Callable[[Params, Params, Sequences], jax.Array]:
    """`(trunk, top, batch) -> [B, N]` raw scores, jitted."""
    return jit(partial(raw_scores, model))


def score_batches(
    score: Callable[..., Any], trunk: Params, top: Params, batches: Iterable[tuple[Sequences, int]]
) -> np.ndarray:
    """Raw scores `[rows, N]` float64 of all the real rows of batches, which come with their number."""
    return np.concatenate(
        [np.float64(sharding.whole(score(trunk, top, sharding.rows(batch))))[:rows] for batch, rows in batches]
    )


def make_raw_edge_score(model: Model) -> Callable[[Params, Params, Sequences, Edge], jax.Array]:
    """`(trunk, top, sequences, edge) -> [B, N]` raw scores of a reward model on the shared trunk, jitted."""
    return jit(partial(heads.score_edge, model))


def make_edge_score(model: Model, top: Params, mean: float, std: float) -> Score:
    """`(trunk, sequences, edge) -> [B, N]` normalised scores of a reward model on the shared trunk."""
    raw = make_raw_edge_score(model)
    return lambda trunk, sequences, edge: (raw(trunk, top, sequences, edge) - mean) / std
