"""The numbers of the report: one row a model, from one study or averaged over the seeds of several.

A metric is `{"mean", "standard_error", "n"}` or `{"not_computed": reason}`, as in evaluation.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.pools import best_of_n_kl
from rlhf_jax.evaluation.statistics import mean_and_error
from rlhf_jax.evaluation.study import Study
from rlhf_jax.evaluation.winrate import generalisation_gap, win_rate

type Metric = dict[str, Any]
type Row = dict[str, dict[str, Metric]]

ID, OOD = "id_test", "ood_test"
REFERENCE = "reference"
_PLAIN = ("reward", "rouge_l", "length", "copied", "finished")


@dataclass(frozen=True)
class Summary:
    """What the tables and plots show.

    Attributes:
      rows: by model, then metric, then part: `id_test`, `ood_test`, for `win_rate` also `gap`, for `kl` `k1` and `k3`.
        Metrics: win_rate and head_to_head (percent), reward, rouge_l, length (words), copied and finished (shares),
        per_input_ead, per_input_sentence_bert, per_input_nli, the same three across_input, kl (nats a response).
      baseline: the model that others are judged against head to head; "" where there is none.
      judges: who judged.
      encoder: the encoder behind Sentence-BERT diversity; "" where there is none.
      runs: how many studies; with more than one, means and standard errors are over these and no longer over prompts.
    """

    rows: dict[str, Row]
    baseline: str
    judges: tuple[str, ...]
    encoder: str
    runs: int


def summarise(studies: Sequence[Study]) -> Summary:
    """Rows of all models in the order of the samples; with several studies the mean and standard error over seeds.

    Raises:
      UserError: where the studies were judged against different baselines, or one against several.
    """
    baselines = {judgement["against"] for study in studies for judgement in study.judgements} - {REFERENCE}
    if len(baselines) > 1:
        raise UserError(
            f"the judgements are head to head against {', '.join(sorted(baselines))}; expected at most one baseline."
        )
    baseline = next(iter(baselines), "")
    rows = {model: _over_seeds([_row(study, model, baseline) for study in studies]) for model in studies[0].samples}
    return Summary(
        rows=rows,
        baseline=baseline,
        judges=tuple(sorted({judgement["judge"] for study in studies for judgement in study.judgements})),
        encoder=studies[0].evaluation.get("encoder") or "",
        runs=len(studies),
    )


def _row(study: Study, model: str, baseline: str) -> Row:
    evaluated = study.evaluation["models"][model]

    def metric(split: str, *keys: str) -> Metric:
        value = evaluated.get(split)
        if value is None:
            return {"not_computed": f"no {split} prompts were evaluated"}
        for key in keys:
            value = value.get(key, {})
        return value or {"not_computed": f"evaluation.json has no {' '.join(keys)}"}

    row = _win_rates(study, model, baseline)
    for name in _PLAIN:
        row[name] = {split: metric(split, name) for split in (ID, OOD)}
    for scope in ("per_input", "across_input"):
        for name in ("ead", "sentence_bert", "nli"):
            row[f"{scope}_{name}"] = {split: metric(split, scope, name) for split in (ID, OOD)}
    row["kl"] = _kl(study, model, baseline)
    return row


def _win_rates(study: Study, model: str, baseline: str) -> Row:
    def preferences(split: str, against: str) -> list[float]:
        return [
            judgement["preference"]
            for judgement in study.judgements
            if (judgement["model"], judgement["split"], judgement["against"]) == (model, split, against)
        ]

    def rate(split: str, against: str) -> Metric:
        if against == model:
            return {"not_computed": "the baseline itself"}
        found = preferences(split, against)
        if not found:
            opponent = against or "a baseline"
            return {"not_computed": f"not judged against {opponent} on {split}"}
        result = win_rate(found)
        return {"mean": result["win_rate"], "standard_error": result["standard_error"], "n": result["n"]}

    against_reference = {split: rate(split, REFERENCE) for split in (ID, OOD)}
    missing = [value for value in against_reference.values() if "not_computed" in value]
    if missing:
        gap = missing[0]
    else:
        result = generalisation_gap(preferences(ID, REFERENCE), preferences(OOD, REFERENCE))
        n = sum(value["n"] for value in against_reference.values())
        gap = {"mean": result["gap"], "standard_error": result["standard_error"], "n": n}
    return {
        "win_rate": {**against_reference, "gap": gap},
        "head_to_head": {split: rate(split, baseline) for split in (ID, OOD)},
    }


def _kl(study: Study, model: str, baseline: str) -> dict[str, Metric]:
    """KL to the baseline in nats a response: 0 for itself, log n - (n - 1) / n for best-of-n, else as last logged."""
    sample = study.samples[model][0]
    if model == baseline:
        value = {"mean": 0.0, "standard_error": None, "n": 1}
        return {"k1": value, "k3": value}
    if sample.selected is not None:
        value = {"mean": best_of_n_kl(sample.n), "standard_error": None, "n": 1}
        return {"k1": value, "k3": value}
    kl = {}
    for estimator in ("k1", "k3"):
        logged = values(study.training.get(model, []), f"kl_{estimator}")
        kl[estimator] = (
            {"mean": logged[-1][1], "standard_error": None, "n": 1}
            if logged
            else {"not_computed": f"no kl_{estimator} in its training metrics"}
        )
    return kl


def values(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """`(step, value)` of one scalar, leaving out steps that did not log it or logged no finite number."""
    found = [(line["step"], line.get(name)) for line in metrics]
    return [(step, float(value)) for step, value in found if isinstance(value, int | float) and math.isfinite(value)]


def _over_seeds(rows: Sequence[Row]) -> Row:
    if len(rows) == 1:
        return rows[0]
    return {name: {part: _mean([row[name][part] for row in rows]) for part in parts} for name, parts in rows[0].items()}


def _mean(metrics: Sequence[Metric]) -> Metric:
    missing = [metric for metric in metrics if "not_computed" in metric]
    if missing:
        return missing[0]
    return mean_and_error([metric["mean"] for metric in metrics])
