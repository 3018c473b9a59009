"""Length-controlled win rate: the win rate if both outputs had the same length."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.statistics import mean_and_error
from rlhf_jax.metrics.winrate import win_fractions

INVERSE_REGULARISATION = 100.0


def length_controlled_win_rate(
    preferences: Sequence[float],
    lengths: Sequence[float],
    reference_lengths: Sequence[float],
    difficulties: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Computes AlpacaEval 2's length-controlled win rate (Dubois et al., 2024), by a simpler fit of the same model.

    A logistic regression explains each preference by the model, the lengths and, if difficulties are given, the
    instruction. The win rate is its mean prediction over the prompts with the length term set to 0:

        logit P(model preferred on x) = theta + phi tanh(d_x / s) + psi difficulty_x
        win rate = 100 mean_x sigmoid(theta + psi difficulty_x)

    d_x is the model's length minus the reference's and s the sample standard deviation of d. Ties and weights enter as
    fractional labels. A model against itself has exactly 50, and swapping the sides mirrors the win rate.

    It makes three assumptions. The effect of length has one slope on every prompt and saturates as tanh does. All of
    it is bias, so an output that is longer because it is more complete loses too. Some prompts have outputs of
    similar length, or the prediction at d = 0 is extrapolated.

    The fit maximises the likelihood with a ridge penalty `|coefficients|^2 / (2 C)`, C = 100, on all terms (by
    scikit-learn's `LogisticRegression`): negligible with more than a few comparisons, it keeps the coefficients finite
    for a model that won all of them. AlpacaEval instead chooses an L1 penalty by cross-validation and adds, with weight
    0.2, its own annotations of baselines prompted to be short or long, so its leaderboard differs a little.

    Args:
      preferences: coded as in `win_fractions`.
      lengths: of the model's outputs, in characters as AlpacaEval counts them, or in any one unit.
      reference_lengths: of the outputs on the other side.
      difficulties: of the instructions, one per comparison, e.g. from AlpacaEval's table.

    Returns:
      `{"win_rate", "standard_error", "n", "coefficients": {"model", "length", "difficulty"}}`: the first two in
      percent, the last coefficient only with difficulties. A positive length coefficient means that the judge likes
      long outputs. The error is the infinitesimal jackknife's (Efron, 1982) with s held fixed.

    Raises:
      UserError: fewer than two preferences, a list of another length or with a value that is not finite, or length
        differences that are all the same and not 0: they and the model cannot be told apart.
    """
    from sklearn.linear_model import LogisticRegression

    won = win_fractions(preferences)
    features, names = _features(len(won), lengths, reference_lengths, difficulties)
    fit = LogisticRegression(C=INVERSE_REGULARISATION, fit_intercept=False, solver="newton-cholesky", tol=1e-8)
    fit.fit(np.tile(features, (2, 1)), np.repeat([1, 0], len(won)), sample_weight=np.concatenate([won, 1 - won]))
    coefficients = fit.coef_[0]

    at_equal_length = features * np.array([name != "length" for name in names])
    predicted = _sigmoid(at_equal_length @ coefficients)
    fitted = _sigmoid(features @ coefficients)
    information = (features * (fitted * (1 - fitted))[:, None]).T @ features
    information += np.eye(len(names)) / INVERSE_REGULARISATION
    gradient = (predicted * (1 - predicted)) @ at_equal_length
    influence = predicted + features @ np.linalg.solve(information, gradient) * (won - fitted)
    return {
        "win_rate": float(100 * predicted.mean()),
        "standard_error": mean_and_error(100 * influence)["standard_error"],
        "n": len(won),
        "coefficients": dict(zip(names, coefficients.tolist(), strict=True)),
    }


def _features(
    count: int,
    lengths: Sequence[float],
    reference_lengths: Sequence[float],
    difficulties: Sequence[float] | None,
) -> tuple[NDArray[np.float64], list[str]]:
    """Returns `[n, 2]` or `[n, 3]` and the names of the columns."""
    if count < 2:
        raise UserError(f"There is {count} preference, expected two or more for a length-controlled win rate.")
    difference = _column("lengths", lengths, count) - _column("reference_lengths", reference_lengths, count)
    spread = difference.std(ddof=1)
    if spread == 0 and difference[0] != 0:
        raise UserError(
            f"All outputs differ from the reference's by the same length, {difference[0]:g}; expected lengths that "
            "vary: otherwise length and model cannot be told apart."
        )
    columns = {"model": np.ones(count), "length": np.tanh(difference / spread) if spread else difference}
    if difficulties is not None:
        columns["difficulty"] = _column("difficulties", difficulties, count)
    return np.stack(list(columns.values()), axis=1), list(columns)


def _column(name: str, values: Sequence[float], count: int) -> NDArray[np.float64]:
    if len(values) != count:
        raise UserError(f"{name} has {len(values)} value(s), expected one per preference, {count}.")
    column = np.asarray(values, np.float64)
    if not np.isfinite(column).all():
        raise UserError(f"{name} has a value that is not finite, expected a number for each preference.")
    return column


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -logits))
