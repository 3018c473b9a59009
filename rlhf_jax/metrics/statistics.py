"""Means of independent values and how far to trust them; all random numbers are NumPy's, from a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError

_DRAWS_AT_ONCE = 1 << 22  # random numbers held at a time, 32 MB


def mean_and_error(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Mean of independent values and its standard error, the sample standard deviation over sqrt(n).

    Returns:
      `{"mean", "standard_error", "n"}`; the error of a single value is not known: None.

    Raises:
      UserError: no values.
    """
    if not len(values):
        raise UserError("There are no values to take a mean of, expected one or more.")
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "standard_error": error, "n": len(values)}


def mean_and_interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> dict[str, Any]:
    """`mean_and_error` with `interval`, the `[low, high]` of `bootstrap_interval`; None for a single value."""
    interval = list(bootstrap_interval(values, seed=seed)) if len(values) > 1 else None
    return {**mean_and_error(values), "interval": interval}


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron, 1979); for a win rate give it `100 * shares(preferences)`.

    Args:
      values: independent values.
      confidence: how often the interval is to cover the mean, in (0, 1).
      resamples: number of resampled means.
      seed: of the draws; the same seed gives the same interval.

    Returns:
      `(low, high)` in the unit of the values.

    Raises:
      UserError: no values, or a confidence outside (0, 1).
    """
    means = resampled_means(values, resamples, np.random.default_rng(seed))
    low, high = percentiles(means, confidence)
    return float(low), float(high)


def resampled_means(values: Sequence[float] | np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """`[resamples]` float64: means of as many values, drawn with replacement.

    Raises:
      UserError: no values.
    """
    if not len(values):
        raise UserError("There are no values for a bootstrap interval, expected one or more.")
    data = np.asarray(values, np.float64)
    batches = _batches(resamples, len(data))
    return np.concatenate([data[rng.integers(len(data), size=(size, len(data)))].mean(axis=1) for size in batches])


def percentiles(draws: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The two quantiles over the first axis of `[resamples, ...]` that leave as much below as above.

    Raises:
      UserError: a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}, expected a number between 0 and 1.")
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def sign_flip_p_value(differences: Sequence[float] | np.ndarray, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a paired permutation test of a zero mean (Fisher, 1935).

    If both members of each pair are exchangeable, the sign of each difference is a fair coin: the p-value is how often
    a sum under random signs is at least as far from 0 as the observed one, which itself counts as one of the draws
    (Phipson and Smyth, 2010), so it is never below `1 / (resamples + 1)`.

    Args:
      differences: of independent pairs.
      resamples: number of random assignments of signs.
      seed: of the signs.

    Raises:
      UserError: no differences.
    """
    if not len(differences):
        raise UserError("There are no differences to test, expected one or more.")
    data, rng = np.asarray(differences, np.float64), np.random.default_rng(seed)
    observed = abs(data.sum()) * (1 - 1e-12)  # equal sums may differ in their rounding
    extreme = 0
    for size in _batches(resamples, len(data)):
        signs = 2.0 * rng.integers(2, size=(size, len(data))) - 1
        extreme += int((abs(signs @ data) >= observed).sum())
    return (1 + extreme) / (1 + resamples)


def _batches(resamples: int, length: int) -> Iterator[int]:
    """Sizes that add up to `resamples`, each for at most `_DRAWS_AT_ONCE` random numbers."""
    largest = max(1, _DRAWS_AT_ONCE // length)
    for start in range(0, resamples, largest):
        yield min(largest, resamples - start)
