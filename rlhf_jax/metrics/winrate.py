"""Win rates, the generalisation gap and the difference between two models, with errors."""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.statistics import (
    bootstrap_interval,
    mean_and_error,
    sign_flip_p_value,
)

TIE = 1.5


def is_preference(value: object) -> bool:
    """True if a value is one of AlpacaEval's: 1 the reference won, 2 the model, 0 a tie, between 1 and 2 a weight."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and (value == 0 or 1 <= value <= 2)


def win_fractions(preferences: Sequence[float]) -> np.ndarray:
    """Converts preferences in AlpacaEval's code to win fractions of the model.

    Args:
      preferences: 1 the reference won, 2 the model won, 0 or 1.5 a tie, values between 1 and 2 are weights.

    Returns:
      `[n]` float64 in [0, 1]: 0 lost, 0.5 tie, 1 won.

    Raises:
      UserError: no preference, or one outside the code. Unparsed verdicts (None, NaN) are not dropped.
    """
    if not len(preferences):
        raise UserError("There are no preferences, expected one or more.")
    for index, value in enumerate(preferences):
        if not is_preference(value):
            raise UserError(f"Preference {index} is {value}, expected 0, or from 1 (reference won) to 2 (model won).")
    values = np.asarray(preferences, np.float64)
    return np.where(values == 0, TIE, values) - 1


def win_rate(preferences: Sequence[float]) -> dict[str, Any]:
    """Returns the mean win fraction, as AlpacaEval defines it. A tie counts half.

    `bootstrap_interval(100 * win_fractions(preferences))` is its interval.

    Args:
      preferences: coded as in `win_fractions`.

    Returns:
      `{"win_rate", "standard_error", "wins", "losses", "ties", "n"}`: the first two in percent, the error as
      `mean_and_error` defines it. A weight counts as a win above 1.5 and as a loss below it.

    Raises:
      UserError: as in `win_fractions`.
    """
    won = win_fractions(preferences)
    rate = mean_and_error(100 * won)
    return {
        "win_rate": rate["mean"],
        "standard_error": rate["standard_error"],
        "wins": int((won > 0.5).sum()),
        "losses": int((won < 0.5).sum()),
        "ties": int((won == 0.5).sum()),
        "n": rate["n"],
    }


def generalisation_gap(
    id_preferences: Sequence[float],
    ood_preferences: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the win rate in distribution minus that out of distribution (Kirk et al., 2024), in percent points.

    Above 0 the model does worse out of distribution. The two sets are independent samples. Their variances add,
    and the percentile bootstrap resamples each separately.

    Returns:
      `{"gap", "standard_error", "interval"}`, the interval as (low, high). The last two are None if one of the sets
      is a single comparison.

    Raises:
      UserError: as in `win_fractions`, or a confidence outside (0, 1).
    """
    inside, outside = (100 * win_fractions(preferences) for preferences in (id_preferences, ood_preferences))
    result = {"gap": float(inside.mean() - outside.mean()), "standard_error": None, "interval": None}
    if min(len(inside), len(outside)) > 1:
        result["standard_error"] = math.hypot(*(mean_and_error(won)["standard_error"] for won in (inside, outside)))
        result["interval"] = bootstrap_interval(inside, outside, confidence=confidence, resamples=resamples, seed=seed)
    return result


def paired_difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns one model's win rate minus another's against the same opponent, paired by prompt, in percent points.

    Both answered the same prompts, so the difficulty of a prompt cancels. The error is that of the mean difference
    over prompts. It is usually smaller than that of two independent win rates. The interval is a percentile bootstrap
    over prompts. The two-sided p-value is of a permutation test that swaps the results within a prompt
    (`sign_flip_p_value`). The null hypothesis is that the two are exchangeable on each prompt.

    Args:
      first: prompt id to preference (coded as in `win_fractions`), as `preferences_by_prompt` returns them.
      second: the same of the other model, on the same prompts.
      confidence: of the interval, in (0, 1).
      resamples: number of resampled means, and of permutations.
      seed: of both.

    Returns:
      `{"difference", "standard_error", "interval", "p_value", "n"}`.

    Raises:
      UserError: a prompt is only in one of the two, or as in `win_fractions` and `bootstrap_interval`.
    """
    strangers = sorted(first.keys() ^ second.keys())
    if strangers:
        raise UserError(
            f"{len(strangers)} prompt(s) are judged for only one of the two models, the first is {strangers[0]!r}; "
            "expected the same prompts for both."
        )
    ours, theirs = (100 * win_fractions([preferences[prompt] for prompt in first]) for preferences in (first, second))
    differences = ours - theirs
    mean = mean_and_error(differences)
    return {
        "difference": mean["mean"],
        "standard_error": mean["standard_error"],
        "interval": bootstrap_interval(differences, confidence=confidence, resamples=resamples, seed=seed),
        "p_value": sign_flip_p_value(differences, resamples, seed),
        "n": mean["n"],
    }


def preferences_by_prompt(
    judgements: Iterable[Mapping[str, Any]], model: str, against: str, split: str
) -> dict[str, float]:
    """Selects the preferences of one comparison on one split, by prompt id, from the lines of judgements.jsonl.

    Raises:
      UserError: there are none, or a prompt is judged twice.
    """
    wanted = {"model": model, "against": against, "split": split}
    preferences: dict[str, float] = {}
    for judgement in judgements:
        if all(judgement[key] == value for key, value in wanted.items()):
            if judgement["id"] in preferences:
                raise UserError(f"{model} against {against} is judged twice on {judgement['id']!r}, expected once.")
            preferences[judgement["id"]] = judgement["preference"]
    if not preferences:
        raise UserError(f"There are no judgements of {model} against {against} on {split}, expected one per prompt.")
    return preferences
