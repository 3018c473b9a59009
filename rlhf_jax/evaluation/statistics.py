"""Means of independent values and how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError


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
    if not len(values):
        raise UserError("There are no values for a bootstrap interval, expected one or more.")
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}, expected a number between 0 and 1.")
    data, rng = np.asarray(values, np.float64), np.random.default_rng(seed)
    means = [rng.choice(data, len(data)).mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
