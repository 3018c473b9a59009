"""Estimates of best-of-n for every n up to N, from one pool of N samples per prompt.

The best of n is the sample with the highest score among n drawn from the pool without replacement. Sorted by score,
the i-th of N (from 0) is the best of `C(i, n - 1)` of the `C(N, n)` subsets. So the mean over all subsets is a weighted
sum. It is unbiased for best-of-n of fresh samples and has less variance than one subset (Nakano et al., 2021).

Shape letters: B prompts, N samples of one prompt.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import gammaln

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.statistics import mean_and_error


def best_weights(scores: np.ndarray, n: int) -> np.ndarray:
    """Returns, per sample, the fraction of subsets of size n of which it is the best. Equal scores split theirs.

    Args:
      scores: `[N]`.
      n: size of the subsets, 1 to N.

    Returns:
      `[N]` float64, of sum 1.

    Raises:
      UserError: n is not in 1 to N.
    """
    size = len(scores)
    if not 1 <= n <= size:
        raise UserError(f"best of {n} cannot be estimated from {size} samples, expected 1 to {size}")
    ranks = np.arange(n - 1, size)
    log_fraction = _log_choose(ranks, n - 1) - _log_choose(np.array(size), n)
    of_rank = np.concatenate([np.zeros(n - 1), np.exp(log_fraction)])
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    totals = np.diff(np.concatenate([[0.0], np.cumsum(of_rank)])[[0, *ends]])
    return (totals / counts)[group]


def _log_choose(n: np.ndarray, k: int) -> np.ndarray:
    return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)


def best_of_n_estimates(scores: np.ndarray, values: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Returns the value of the best of n, for every n up to N.

    Args:
      scores: `[B, N]`, e.g. of a reward model. They choose the best.
      values: `[B, N]`, reported of the chosen one, e.g. of a judge. The scores by default.

    Returns:
      For n from 1 to N `{"n", "kl", "mean", "standard_error"}`: KL in nats to the policy that was sampled, the mean
      over prompts and its standard error between them (None for a single prompt).

    Raises:
      UserError: no prompts, or values of another shape.
    """
    estimates = []
    for n, of_prompts in enumerate(best_of_n_values(scores, values).T, start=1):
        measured = mean_and_error(of_prompts)
        estimates.append({"n": n, "kl": best_of_n_kl(n), **{k: measured[k] for k in ("mean", "standard_error")}})
    return estimates


def best_of_n_values(scores: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """Returns `[B, N]` float64: per prompt the expected value of the best of n, for n = 1 to N.

    Args:
      scores: `[B, N]`. They choose the best.
      values: `[B, N]`, reported of the chosen one. The scores by default.

    Raises:
      UserError: no prompts, or values of another shape.
    """
    values = scores if values is None else values
    if scores.ndim != 2 or scores.shape != values.shape or not len(scores):
        raise UserError(f"scores have the shape {scores.shape} and values {values.shape}, expected one [B, N]")
    sizes = range(1, scores.shape[1] + 1)
    return np.array(
        [[best_weights(row, n) @ chosen for n in sizes] for row, chosen in zip(scores, values, strict=True)]
    )


def best_of_n_kl(n: int) -> float:
    """Returns best-of-n's KL to the policy in nats, an upper bound if samples tie (Stiennon et al., 2020, G.3)."""
    return math.log(n) - (n - 1) / n


def simulated_best(scores: Sequence[float], n: int, sets: int, rng: np.random.Generator) -> list[int]:
    """Returns the indices of the best of n of `sets` subsets, each drawn from the pool without replacement.

    They stand for the outputs of a best-of-n policy to one input, whose diversity the study measures. Subsets overlap.
    In a pool smaller than 4 n the same samples would win too often.

    Args:
      scores: `[N]`.
      n: size of the subsets.
      sets: number of subsets.
      rng: of the draws.

    Raises:
      UserError: the pool is smaller than 4 n.
    """
    if len(scores) < 4 * n:
        raise UserError(f"a pool of {len(scores)} is too small to simulate best-of-{n}, expected {4 * n} or more")
    values = np.asarray(scores)
    draws = rng.permuted(np.tile(np.arange(len(values)), (sets, 1)), axis=1)[:, :n]
    return draws[np.arange(sets), values[draws].argmax(axis=1)].tolist()
