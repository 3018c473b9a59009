"""Win rates and the generalisation gap, with their errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.statistics import mean_and_error

TIE = 1.5


def shares(preferences: Sequence[float]) -> np.ndarray:
    """Preferences as AlpacaEval codes them to what the model gets of each comparison.

    Args:
      preferences: 1 the reference won, 2 the model won, 0 or 1.5 a tie, values between 1 and 2 are weights.

    Returns:
      `[n]` float64 in [0, 1]: 0 lost, 0.5 tie, 1 won.

    Raises:
      UserError: no preference, or one outside the code; an unparsed verdict (None, NaN) is not dropped.
    """
    if not len(preferences):
        raise UserError("There are no preferences, expected one or more.")
    for index, value in enumerate(preferences):
        if value is None or not (value == 0 or 1 <= value <= 2):
            raise UserError(f"Preference {index} is {value}, expected 0, or from 1 (reference won) to 2 (model won).")
    values = np.asarray(preferences, np.float64)
    return np.where(values == 0, TIE, values) - 1


def win_rate(preferences: Sequence[float]) -> dict[str, Any]:
    """Mean share of comparisons that the model won, a tie counting half, as AlpacaEval defines it.

    Args:
      preferences: coded as in `shares`.

    Returns:
      `{"win_rate", "standard_error", "wins", "losses", "ties", "n"}`: the first two in percent, the error as
      `mean_and_error` defines it. A weight counts as a win above 1.5 and as a loss below it.

    Raises:
      UserError: as in `shares`.
    """
    won = shares(preferences)
    rate = mean_and_error(100 * won)
    return {
        "win_rate": rate["mean"],
        "standard_error": rate["standard_error"],
        "wins": int((won > 0.5).sum()),
        "losses": int((won < 0.5).sum()),
        "ties": int((won == 0.5).sum()),
        "n": rate["n"],
    }


def generalisation_gap(id_preferences: Sequence[float], ood_preferences: Sequence[float]) -> dict[str, Any]:
    """In-distribution minus out-of-distribution win rate (Kirk et al., 2024), in percent points.

    Above 0 the model does worse out of distribution.

    Returns:
      `{"gap", "standard_error"}`; the two sets are independent samples, so their variances add (None where one has a
      single comparison).

    Raises:
      UserError: as in `shares`.
    """
    inside, outside = win_rate(id_preferences), win_rate(ood_preferences)
    errors = [inside["standard_error"], outside["standard_error"]]
    return {
        "gap": inside["win_rate"] - outside["win_rate"],
        "standard_error": None if None in errors else math.hypot(*errors),
    }
