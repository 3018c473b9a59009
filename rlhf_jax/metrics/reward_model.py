"""Quality of a reward model's scores, against preferences and against another reward model.

Everything reads scores alone, on the host. The *difference* of a pair is the chosen response's raw score minus the
rejected one's. By Bradley and Terry (1952) the preference has the probability `1 / (1 + exp(-difference))`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.statistics import mean_and_error

BINS = 10  # of the reliability diagram, over confidences from 0.5 to 1
MARGIN_BINS = 4


def accuracy(scores: np.ndarray) -> dict[str, float]:
    """Returns accuracy (a tie is a half), its standard error and the mean loss in nats of raw scores `[pairs, 2]`."""
    differences = scores[:, 0] - scores[:, 1]
    right = float(np.mean(_right(differences)))
    return {
        "accuracy": right,
        "accuracy_standard_error": math.sqrt(right * (1 - right) / len(differences)),
        "loss": float(np.mean(np.logaddexp(0.0, -differences))),
    }


def calibration(scores: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Returns the reliability diagram of a reward model and its summary (Guo et al., 2017).

    The order of a pair is arbitrary. So a pair counts by its confidence and by the choice of people. The confidence,
    in [0.5, 1], is the probability of the response that the model prefers. A tie is half right.

    Args:
      scores: `[pairs, 2]` raw scores, the chosen response first.
      bins: number of bins of equal width.

    Returns:
      `{"expected_calibration_error", "bins"}`: the error is the mean over pairs of `|accuracy - confidence|` of their
      bin. A bin that is not empty has `low`, `high`, the means `confidence` and `accuracy`, and the count `n`.
    """
    differences = scores[:, 0] - scores[:, 1]
    confidence, right = 1 / (1 + np.exp(-np.abs(differences))), _right(differences)
    edges = np.linspace(0.5, 1.0, bins + 1)
    found = []
    for low, high, inside in _bins(confidence, edges):
        means = {"confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean())}
        found.append({"low": low, "high": high, **means, "n": int(inside.sum())})
    gaps = [abs(entry["accuracy"] - entry["confidence"]) * entry["n"] for entry in found]
    return {"expected_calibration_error": sum(gaps) / len(differences), "bins": found}


def accuracy_by_margin(scores: np.ndarray, margins: Sequence[float], bins: int = MARGIN_BINS) -> list[dict[str, Any]]:
    """Returns the accuracy among pairs of similar margin, which says by how much the chosen response is better.

    Args:
      scores: `[pairs, 2]`, the chosen response first.
      margins: per pair, from its record.
      bins: number of quantiles. Many equal margins make fewer bins.

    Returns:
      In increasing order of margins, `{"low", "high", "mean", "standard_error", "n"}`: accuracy (a tie is a half) as
      `mean_and_error` gives it.
    """
    values, right = np.asarray(margins, np.float64), _right(scores[:, 0] - scores[:, 1])
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))
    return [
        {"low": low, "high": high, **mean_and_error(right[inside])}
        for low, high, inside in _bins(values, edges if len(edges) > 1 else np.repeat(edges, 2))
    ]


def agreement_matrix(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Measures how often two reward models order two outputs to one prompt the same way.

    Args:
      scores: by reward model and prompt id, one score per output.

    Returns:
      `{"names", "agreement", "standard_error", "n"}`: matrices in the order of the names. An entry is the mean over the
      `n` prompts with two outputs or more of the fraction of pairs that both models order alike, in [0, 1]. A pair
      that one model ties and the other does not counts half. The error is over prompts, None for a single one.

    Raises:
      UserError: a model lacks a prompt or scores another number of its outputs, or no prompt has two outputs.
    """
    first, *others = scores
    for other in others:
        for name in {**scores[first], **scores[other]}:
            left, right = (len(scores[model].get(name, ())) for model in (first, other))
            if left != right:
                raise UserError(f'"{first}" scores {left} outputs of {name!r} and "{other}" {right}, expected as many.')
    prompts = [name for name, found in scores[first].items() if len(found) > 1]
    if not prompts:
        raise UserError(f'No prompt that "{first}" scores has two outputs, expected some to order.')
    signs = {model: {name: _orders(found[name]) for name in prompts} for model, found in scores.items()}

    def compare(a: str, b: str) -> dict[str, Any]:
        return mean_and_error([1 - np.mean(abs(signs[a][name] - signs[b][name])) / 2 for name in prompts])

    table = [[compare(a, b) for b in scores] for a in scores]
    return {
        "names": list(scores),
        "agreement": [[entry["mean"] for entry in row] for row in table],
        "standard_error": [[entry["standard_error"] for entry in row] for row in table],
        "n": len(prompts),
    }


def _right(differences: np.ndarray) -> np.ndarray:
    return np.where(differences > 0, 1.0, np.where(differences == 0, 0.5, 0.0))


def _orders(scores: Sequence[float]) -> np.ndarray:
    """Returns the sign of each pair's difference."""
    return np.array([np.sign(a - b) for a, b in itertools.combinations(scores, 2)])


def _bins(values: np.ndarray, edges: np.ndarray) -> list[tuple[float, float, np.ndarray]]:
    """Returns `(low, high, members)` of bins that are not empty. A value on an inner edge is in the upper bin."""
    index = np.searchsorted(edges[1:-1], values, side="right")
    return [(float(edges[b]), float(edges[b + 1]), index == b) for b in np.unique(index)]
