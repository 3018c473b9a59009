"""The numbers of the report: one row per model, of one study or averaged over seeds.

A metric is `{"mean", "standard_error", "n"}` or `{"not_computed": reason}`, as in evaluation.json. It may
have a 95 % `"interval"`, `[low, high]`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scipy.stats import norm

from rlhf_jax.data.records import REFERENCE
from rlhf_jax.errors import UserError
from rlhf_jax.metrics.best_of_n import best_of_n_kl
from rlhf_jax.metrics.length_control import length_controlled_win_rate
from rlhf_jax.metrics.ranking import bradley_terry
from rlhf_jax.metrics.statistics import mean_and_error, mean_and_interval, t_interval
from rlhf_jax.metrics.winrate import generalisation_gap, preferences_by_prompt, win_fractions
from rlhf_jax.report.study import ID, OOD, Study

type Metric = dict[str, Any]
type Row = dict[str, dict[str, Metric]]

DIVERSITY = {
    "per_input_ead": "per-input EAD",
    "per_input_sentence_bert": "per-input Sentence-BERT",
    "across_input_ead": "across-input EAD",
    "across_input_sentence_bert": "across-input Sentence-BERT",
}
"""Names in tables and plots of the diversity metrics that need no classifier."""

_PLAIN = ("reward", "rouge_l", "length", "copied", "finished")


@dataclass(frozen=True)
class Summary:
    """The content of tables and plots.

    Attributes:
      rows: by model, then metric, then part: `id_test`, `ood_test`, for `win_rate` also `gap`, for `kl` `k1` and `k3`.
        Metrics: win_rate, head_to_head and length_controlled (percent), strength (Bradley-Terry's, log-odds), reward,
        rouge_l, length (words), copied and finished (fractions), per_input_ead, per_input_sentence_bert, per_input_nli,
        the same three across_input, kl (nats per response).
      reward_models: by training stage that logs the accuracy on held-out pairs, then metric (`accuracy`, percent;
        `calibration_error`), then split.
      judging: by language-model judge: `comparisons` and `answers` (counts), `consistency` (percent),
        `spent` (tokens, US dollars). Empty for other judges.
      baseline: the opponent of the other models head to head, or "".
      judges: names of the judges.
      encoder: the encoder of Sentence-BERT diversity, or "".
      runs: number of studies. With more than one, means and standard errors are over them, not over prompts.
    """

    rows: dict[str, Row]
    reward_models: dict[str, Row]
    judging: dict[str, Row]
    baseline: str
    judges: tuple[str, ...]
    encoder: str
    runs: int


def summarise(studies: Sequence[Study]) -> Summary:
    """Computes the rows of all models, in the order of the samples. Several studies are averaged over seeds.

    Raises:
      UserError: the judgements have more than one baseline.
    """
    baselines = {judgement["against"] for study in studies for judgement in study.judgements} - {REFERENCE}
    if len(baselines) > 1:
        raise UserError(
            f"the judgements are head to head against {', '.join(sorted(baselines))}; expected at most one baseline."
        )
    baseline = next(iter(baselines), "")
    strengths = [_strengths(study) for study in studies]
    rows = {
        model: _over_seeds(
            [
                _row(study, model, baseline) | _strength(found, model)
                for study, found in zip(studies, strengths, strict=True)
            ]
        )
        for model in studies[0].samples
    }
    judging = [stage for stage in studies[0].training if _held_out(studies[0], stage)]
    return Summary(
        rows=rows,
        reward_models={stage: _over_seeds([_reward_model(study, stage) for study in studies]) for stage in judging},
        judging=_judging(studies),
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
    row["length_controlled"] = {split: _length_controlled(study, model, split) for split in (ID, OOD)}
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
        missing = {"not_computed": f"not judged against {against or 'a baseline'} on {split}"}
        return mean_and_interval(100 * win_fractions(found)) if found else missing

    against_reference = {split: rate(split, REFERENCE) for split in (ID, OOD)}
    missing = [value for value in against_reference.values() if "not_computed" in value]
    if missing:
        gap = missing[0]
    else:
        result = generalisation_gap(preferences(ID, REFERENCE), preferences(OOD, REFERENCE))
        gap = {"mean": result["gap"], "standard_error": result["standard_error"]}
        gap |= {"n": sum(value["n"] for value in against_reference.values()), "interval": result["interval"]}
    return {
        "win_rate": {**against_reference, "gap": gap},
        "head_to_head": {split: rate(split, baseline) for split in (ID, OOD)},
    }


def _length_controlled(study: Study, model: str, split: str) -> Metric:
    """Computes the rate against the reference. The length of a prompt is the mean of its outputs', in characters."""
    records = {record.id: record for record in study.samples[model]}
    try:
        preferences = preferences_by_prompt(study.judgements, model, REFERENCE, split)
        found = [records[key] for key in preferences]
        lengths = [fmean(map(len, record.answers(record.outputs))) for record in found]
        references = [len(record.reference) for record in found]
        result = length_controlled_win_rate(list(preferences.values()), lengths, references)
    except UserError as error:
        return {"not_computed": str(error).rstrip(".")}
    except KeyError as missing:
        return {"not_computed": f"the samples of {model} have no prompt {missing}"}
    return {"mean": result["win_rate"], **{name: result[name] for name in ("standard_error", "n", "interval")}}


def _strengths(study: Study) -> dict[str, dict[str, Any] | str]:
    """Returns, by split, the entries of `bradley_terry` by model, or a reason."""
    strengths: dict[str, dict[str, Any] | str] = {}
    for split in (ID, OOD):
        try:
            ranking = bradley_terry([line for line in study.judgements if line["split"] == split])
            strengths[split] = {entry["model"]: entry for entry in ranking}
        except UserError as error:
            strengths[split] = str(error).rstrip(".")
    return strengths


def _strength(strengths: Mapping[str, dict[str, Any] | str], model: str) -> Row:
    """Returns a row whose error is that of a normal distribution with the bootstrap's 95 % interval."""
    row: dict[str, Metric] = {}
    for split, found in strengths.items():
        if isinstance(found, str) or model not in found:
            row[split] = {"not_computed": found if isinstance(found, str) else f"{model} was not compared on {split}"}
        else:
            low, high = found[model]["interval"]
            error = (high - low) / (2 * norm.ppf(0.975))
            mean, comparisons = found[model]["strength"], found[model]["comparisons"]
            row[split] = {"mean": mean, "standard_error": error, "n": comparisons, "interval": (low, high)}
    return {"strength": row}


def _held_out(study: Study, stage: str) -> list[str]:
    """Returns the splits on which a stage logs the accuracy of its scores, the one out of distribution last."""
    logged = {name for line in study.training[stage] for name in line}
    splits = {found[1] for name in logged if (found := re.fullmatch("eval/([^/]+)/accuracy", name))}
    return sorted(splits, key=lambda split: (split == OOD, split))


def _reward_model(study: Study, stage: str) -> Row:
    """Returns the last logged values. The calibration error is a fraction."""
    row: Row = {"accuracy": {}, "calibration_error": {}}
    for split in _held_out(study, stage):

        def last(name: str, split: str = split) -> float | None:
            found = values(study.training[stage], f"eval/{split}/{name}")
            return found[-1][1] if found else None

        accuracy, error, calibration = map(last, ("accuracy", "accuracy_standard_error", "calibration_error"))
        row["accuracy"][split] = _single(100 * accuracy, None if error is None else 100 * error)
        unknown = {"not_computed": "it was not logged"}
        row["calibration_error"][split] = unknown if calibration is None else _single(calibration)
    return row


def _judging(studies: Sequence[Study]) -> dict[str, Row]:
    if any(study.judge is None for study in studies):
        return {}
    names = dict.fromkeys(study.judge["judge"] for study in studies)
    return {", ".join(names): _over_seeds([_judged(study.judge) for study in studies])}


def _judged(found: Mapping[str, Any]) -> Row:
    """Returns the counts in judge.json. An earlier version did not write all of them."""

    def counted(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Metric]:
        missing = {name: {"not_computed": f"judge.json has no {name}"} for name in names}
        return missing | {name: _single(value) for name, value in values.items() if name in missing}

    spent = counted(found["spent"], ("prompt_tokens", "answer_tokens", "usd"))
    if found["answers"] and found["spent"].get("usd") == 0:
        spent["usd"] = {"not_computed": "no prices were given"}
    return {
        "comparisons": counted(found, ("matches", "identical")),
        "answers": counted(found, ("answers", "ties", "reminded", "unparsable")),
        "consistency": {name: found[name] for name in ("first_shown_wins", "order_consistency", "self_consistency")},
        "spent": spent,
    }


def _kl(study: Study, model: str, baseline: str) -> dict[str, Metric]:
    """Returns the KL to the baseline in nats per response: 0 for itself, analytic for best-of-n, else last logged."""
    sample = study.samples[model][0]
    if model == baseline or sample.selected is not None:
        value = _single(0.0 if model == baseline else best_of_n_kl(sample.n))
        return {"k1": value, "k3": value}
    kl = {}
    for estimator in ("k1", "k3"):
        logged = values(study.training.get(model, []), f"kl_{estimator}")
        missing = {"not_computed": f"no kl_{estimator} in its training metrics"}
        kl[estimator] = _single(logged[-1][1]) if logged else missing
    return kl


def _single(value: float, error: float | None = None) -> Metric:
    return {"mean": value, "standard_error": error, "n": 1}


def values(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Returns `(step, value)` of one scalar, without steps that logged no finite number."""
    found = [(line["step"], line.get(name)) for line in metrics]
    return [(step, float(value)) for step, value in found if isinstance(value, int | float) and math.isfinite(value)]


def _over_seeds(rows: Sequence[Row]) -> Row:
    if len(rows) == 1:
        return rows[0]
    return {
        name: {part: _mean([row[name][part] for row in rows], *_bounds(name, part)) for part in parts}
        for name, parts in rows[0].items()
    }


def _bounds(name: str, part: str) -> tuple[float, float]:
    """The lowest and highest value that a part of a metric can have."""
    if part == "gap":
        return (-100.0, 100.0)
    if name in ("win_rate", "head_to_head", "length_controlled", "accuracy", "consistency"):
        return (0.0, 100.0)
    if name in ("rouge_l", "copied", "finished", "calibration_error"):
        return (0.0, 1.0)
    if name.endswith("_sentence_bert"):
        return (0.0, 2.0)
    if name.endswith("_nli"):
        return (-2.0, 2.0)
    signed = name in ("reward", "strength") or part == "k1"
    return (-math.inf if signed else 0.0, math.inf)


def _mean(metrics: Sequence[Metric], low: float, high: float) -> Metric:
    missing = [metric for metric in metrics if "not_computed" in metric]
    if missing:
        return missing[0]
    means = [metric["mean"] for metric in metrics]
    return {**mean_and_error(means), "interval": t_interval(means, low, high)}
