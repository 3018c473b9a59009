"""Consistency of a judge with itself, between both orders, and with people."""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.judges.llm import Verdict
from rlhf_jax.metrics.statistics import mean_and_error

type Metric = dict[str, Any]


def human_agreement(human: Sequence[float], judge: Sequence[float | None]) -> dict[str, Any]:
    """Measures how often a judge chooses as people did.

    Cohen's kappa (1960), by scikit-learn, is what is left of the accuracy beyond chance:
    `(accuracy - chance) / (1 - chance)`. The order of two outputs is arbitrary, and often the preferred one is first.
    Kappa would be undefined then, so each pair counts in both orders. Chance is half of the pairs that the judge
    decides. Without ties on either side kappa is `2 accuracy - 1`.

    Args:
      human: per pair, the verdict of people on the first output: 1 better, 0 worse, 0.5 tie.
      judge: the same of the judge. Values between count as the nearer side. None is an answer that cannot be read.

    Returns:
      `{"accuracy", "kappa", "decided_accuracy", "ties", "unparsable", "n"}`. The accuracies are percents as
      `mean_and_error` gives them. The first is over all pairs. A tie of the judge alone or an unreadable answer is
      wrong there, as in the study. The second is over the pairs that it decides. The counts are of pairs.

    Raises:
      UserError: no pairs, or lists of different lengths.
    """
    if len(human) != len(judge) or not len(human):
        raise UserError(
            f"There are {len(human)} human labels and {len(judge)} of the judge, expected equally many, at least one."
        )
    from sklearn.metrics import cohen_kappa_score

    people, other = ([_label(value) for value in labels] for labels in (human, judge))
    right = [100.0 * (a == b) for a, b in zip(people, other, strict=True)]
    decided = [value for value, label in zip(right, other, strict=True) if label in (-1, 1)]
    # A mirrored pair changes side. Ties (0) and unreadable answers (2) stay what they are.
    both = [labels + [-label if abs(label) == 1 else label for label in labels] for labels in (people, other)]
    kappa = None if both[0] == both[1] == [0] * len(both[0]) else float(cohen_kappa_score(*both))
    return {
        "accuracy": mean_and_error(right),
        "kappa": kappa,
        "decided_accuracy": _mean(decided, "the judge decided no pair"),
        "ties": other.count(0),
        "unparsable": other.count(2),
        "n": len(other),
    }


def verdict_statistics(verdicts: Sequence[Sequence[Verdict]]) -> dict[str, Any]:
    """Counts the verdicts of a language model and measures their consistency.

    Args:
      verdicts: one list per match, as `LlmJudge.compare` returns them.

    Returns:
      Counts: `matches`, `identical` (matches of equal texts, which are not asked about), `answers` to the others,
      `ties` among these, `reminded` (answers that could not be read at first) and `unparsable` (nor after the
      reminder). Percents with standard errors over matches, or `{"not_computed": reason}`: `first_shown_wins` (wins of
      the output shown first, 50 without position bias if both orders are asked), `order_consistency` (both orders give
      the same verdict) and `self_consistency` (repeats of a question do). Unparsable answers do not count in these.
    """
    asked = [match for match in verdicts if match[0].answer is not None]
    answers = [verdict for match in asked for verdict in match]
    read = [[verdict for verdict in match if verdict.share is not None] for match in asked]
    return {
        "matches": len(verdicts),
        "identical": len(verdicts) - len(asked),
        "answers": len(answers),
        "ties": sum(verdict.share == 0.5 for verdict in answers),
        "reminded": sum(verdict.reminded for verdict in answers),
        "unparsable": sum(verdict.share is None for verdict in answers),
        "first_shown_wins": _over_matches(map(_first_shown, read), "no answer could be read"),
        "order_consistency": _over_matches(map(_across_orders, read), "no match has answers in both orders"),
        "self_consistency": _over_matches(map(_across_repeats, read), "no question has two answers"),
    }


def _label(value: float | None) -> int:
    return 2 if value is None else int(np.sign(value - 0.5))


def _first_shown(match: Sequence[Verdict]) -> list[float]:
    return [verdict.share if verdict.output_first else 1 - verdict.share for verdict in match]


def _across_orders(match: Sequence[Verdict]) -> list[float]:
    pairs = combinations(match, 2)
    return [float(a.share == b.share) for a, b in pairs if a.repeat == b.repeat and a.output_first != b.output_first]


def _across_repeats(match: Sequence[Verdict]) -> list[float]:
    pairs = combinations(match, 2)
    return [float(a.share == b.share) for a, b in pairs if a.output_first == b.output_first]


def _over_matches(values: Any, reason: str) -> Metric:
    return _mean([100 * fmean(match) for match in values if match], reason)


def _mean(values: Sequence[float], reason: str) -> Metric:
    return mean_and_error(values) if values else {"not_computed": reason}
