"""A ranking of many models from comparisons of two at a time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.statistics import percentiles
from rlhf_jax.metrics.winrate import win_fractions

_TOLERANCE = 1e-8  # in log-odds


def bradley_terry(
    judgements: Iterable[Mapping[str, Any]], confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Fits Bradley and Terry's strengths (1952): `P(i is preferred to j) = sigmoid(strength_i - strength_j)`.

    The fit is by maximum likelihood. A tie or a weight counts as a fraction of a win. Each pair of models that met gets
    half a win on either side. For two models that is the log-odds with Haldane's and Anscombe's correction. It keeps a
    strength finite if a model won or lost everything, and matters less with each comparison.

    The intervals are a percentile bootstrap over prompts. A prompt is drawn with all its comparisons, which are not
    independent: they have its difficulty in common.

    Args:
      judgements: lines of judgements.jsonl. `id`, `model`, `against` and `preference` are read. The reference is a
        model like any other.
      confidence: of the intervals, in (0, 1).
      resamples: number of refits.
      seed: of the draws.

    Returns:
      `[{"model", "strength", "interval", "comparisons"}, ...]`, in decreasing strength. Strengths are log-odds with
      mean 0 over the models (times 173.7 they are Elo points), intervals are (low, high).

    Raises:
      UserError: no judgements, a model against itself, a pair judged twice on a prompt, a preference outside the code,
        or models that no chain of comparisons connects, which are named.
    """
    names, wins = _wins_by_prompt(list(judgements))
    pairs = wins.sum(axis=0)
    met = pairs + pairs.T > 0
    _require_connected(names, met)
    prompts, models = len(wins), len(names)
    counts = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    resampled = (counts @ wins.reshape(prompts, -1)).reshape(-1, models, models)
    strengths, *draws = _fit(np.concatenate([pairs[None], resampled]) + 0.5 * met)
    low, high = percentiles(np.asarray(draws), confidence)
    comparisons = (pairs + pairs.T).sum(axis=1)
    return [
        {
            "model": names[i],
            "strength": float(strengths[i]),
            "interval": (float(low[i]), float(high[i])),
            "comparisons": round(comparisons[i]),
        }
        for i in np.argsort(-strengths, kind="stable")
    ]


def _wins_by_prompt(judgements: Sequence[Mapping[str, Any]]) -> tuple[list[str], NDArray[np.float64]]:
    """Returns the models in alphabetical order, and `[prompts, M, M]` win fractions of the row against the column."""
    won = win_fractions([judgement["preference"] for judgement in judgements])
    names = sorted({judgement[side] for judgement in judgements for side in ("model", "against")})
    prompts = {judgement["id"]: None for judgement in judgements}
    row = {prompt: index for index, prompt in enumerate(prompts)}
    column = {name: index for index, name in enumerate(names)}
    wins = np.zeros((len(prompts), len(names), len(names)))
    for judgement, fraction in zip(judgements, won, strict=True):
        prompt, model, against = (judgement[key] for key in ("id", "model", "against"))
        if model == against:
            raise UserError(f"{model} is compared with itself on {prompt!r}, expected two different models.")
        i, j = column[model], column[against]
        if wins[row[prompt], i, j] or wins[row[prompt], j, i]:
            raise UserError(f"{model} and {against} are compared twice on {prompt!r}, expected once.")
        wins[row[prompt], i, j] = fraction
        wins[row[prompt], j, i] = 1 - fraction
    return names, wins


def _require_connected(names: Sequence[str], met: NDArray[np.bool_]) -> None:
    from scipy.sparse.csgraph import connected_components

    count, group = connected_components(met, directed=False)
    if count > 1:
        groups = [", ".join(name for name, g in zip(names, group, strict=True) if g == i) for i in range(count)]
        raise UserError(
            f"No comparisons connect these groups of models: {'; '.join(groups)}; expected a chain of comparisons "
            "between any two: otherwise their strengths have no common scale."
        )


def _fit(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns maximum-likelihood strengths `[R, M]` of tables `[R, M, M]` of wins. Each row has mean 0.

    Newton's method with the step length log(1 + r) / r, which converges from anywhere on logistic losses. Here r is
    the largest change of a log-odds in the full step (Bach, 2010; Sun and Tran-Dinh, 2019).
    """
    matches = wins + wins.swapaxes(1, 2)
    strengths = np.zeros(wins.shape[:2])
    change = np.inf
    while np.max(change) > _TOLERANCE:
        expected = 1 / (1 + np.exp(strengths[:, None, :] - strengths[:, :, None]))
        gradient = (wins - matches * expected).sum(axis=2)
        weights = matches * expected * (1 - expected)
        laplacian = np.eye(wins.shape[1]) * weights.sum(axis=2)[:, :, None] - weights
        # The Laplacian ignores a common shift. The added ones make it invertible and the step's mean 0.
        step = np.linalg.solve(laplacian + 1, gradient[:, :, None])[:, :, 0]
        change = np.ptp(step, axis=1)
        strengths += step * (np.log1p(change) / np.maximum(change, np.finfo(float).tiny))[:, None]
    return strengths
