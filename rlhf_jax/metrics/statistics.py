"""Means of independent values with standard errors, intervals and p-values."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError

_DRAWS_AT_ONCE = 1 << 22  # random numbers held at a time, 32 MB


def mean_and_error(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Returns the mean of independent values and its standard error, the sample standard deviation over sqrt(n).

    Returns:
      `{"mean", "standard_error", "n"}`. The error of a single value is None.

    Raises:
      UserError: no values.
    """
    if not len(values):
        raise UserError("There are no values to take a mean of, expected one or more.")
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "standard_error": error, "n": len(values)}


def mean_and_interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> dict[str, Any]:
    """`mean_and_error` with `interval`, the `[low, high]` of `bootstrap_interval`. None for a single value."""
    interval = list(bootstrap_interval(values, seed=seed)) if len(values) > 1 else None
    return {**mean_and_error(values), "interval": interval}


def t_interval(
    values: Sequence[float] | np.ndarray, low: float = -math.inf, high: float = math.inf, confidence: float = 0.95
) -> tuple[float, float]:
    """Student's interval of the mean of a few values, within the bounds of what they measure.

    It is on a scale without bounds, by the delta method: log-odds between two bounds, the logarithm above one.

    Args:
      values: two or more, independent.
      low, high: the bounds. One above alone is not known here.
      confidence: fraction of intervals that cover the mean, in (0, 1).

    Raises:
      UserError: fewer than two values, or a confidence outside (0, 1).
    """
    from scipy.special import expit
    from scipy.stats import t

    _check(confidence)
    if len(values) < 2:
        raise UserError(f"There are {len(values)} value(s) for an interval, expected two or more.")
    found = mean_and_error(values)
    mean, half = found["mean"], t.ppf((1 + confidence) / 2, len(values) - 1) * found["standard_error"]
    if math.isinf(low) or not low < mean < high:  # equal values may be a bound
        return float(mean - half), float(mean + half)
    below, above = mean - low, high - mean
    if math.isinf(high):
        return tuple(float(low + below * math.exp(side * half / below)) for side in (-1, 1))
    odds, width = math.log(below / above), half * (1 / below + 1 / above)
    return tuple(float(low + (high - low) * expit(odds + side * width)) for side in (-1, 1))


def bootstrap_interval(
    *samples: Sequence[float] | np.ndarray, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, or of a difference of two (Efron, 1979), by SciPy.

    For a win rate give it `100 * win_fractions(preferences)`.

    Args:
      *samples: independent values. Of two samples, each is resampled separately.
      confidence: fraction of intervals that cover the mean, in (0, 1).
      resamples: number of resampled means.
      seed: of the draws. The same seed gives the same interval.

    Returns:
      `(low, high)` in the unit of the values.

    Raises:
      UserError: no values, or a confidence outside (0, 1).
    """
    from scipy.stats import bootstrap

    _check(confidence)
    if not all(map(len, samples)):
        raise UserError("There are no values for a bootstrap interval, expected one or more.")
    data = [np.asarray(values, np.float64) for values in samples]
    if len(data) == 1 and len(data[0]) == 1:
        return float(data[0][0]), float(data[0][0])
    found = bootstrap(
        data,
        lambda *drawn, axis: drawn[0].mean(axis) - (drawn[1].mean(axis) if len(drawn) > 1 else 0.0),
        n_resamples=resamples,
        batch=_batch(data),
        confidence_level=confidence,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return float(found.low), float(found.high)


def percentiles(draws: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two quantiles over the first axis of `[resamples, ...]` that leave equal parts outside.

    Raises:
      UserError: a confidence outside (0, 1).
    """
    _check(confidence)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def sign_flip_p_value(differences: Sequence[float] | np.ndarray, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a paired permutation test of a zero mean (Fisher, 1935), by SciPy.

    If both members of each pair are exchangeable, the sign of each difference is a fair coin. The p-value is how often
    a sum under random signs is at least as far from 0 as the observed one. All signs are tried if there are no more
    than `resamples`. Of random ones the observed sum itself counts as a draw (Phipson and Smyth, 2010), so the p-value
    is never below `1 / (resamples + 1)`.

    Args:
      differences: of independent pairs.
      resamples: number of random assignments of signs.
      seed: of the signs.

    Raises:
      UserError: no differences.
    """
    from scipy.stats import permutation_test

    if not len(differences):
        raise UserError("There are no differences to test, expected one or more.")
    data = np.asarray(differences, np.float64)
    found = permutation_test(
        (data,),
        lambda flipped, axis: abs(flipped.sum(axis)),
        alternative="greater",
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=_batch([data]),
        rng=seed,
    )
    return float(found.pvalue)


def _batch(samples: Sequence[np.ndarray]) -> int:
    """Number of resamples at once."""
    return max(1, _DRAWS_AT_ONCE // max(map(len, samples)))


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}, expected a number between 0 and 1.")
