"""The stage `judge`: who wins on each prompt, a model or the human summary, a model or the baseline.

Every output and every human summary is scored once by the gold scorer; a comparison is won by the higher score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.data.formats import source_text
from rlhf_jax.data.records import Samples, read, write_text
from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.diversity import judged
from rlhf_jax.evaluation.gold import GoldConfig, Scorer, make_scorer
from rlhf_jax.evaluation.winrate import win_rate

REFERENCE = "reference"

type Judgement = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """Settings of the stage.

    Attributes:
      stage: "judge".
      samples: model name to its samples.jsonl; all on the same prompts.
      baseline: the model that the others are compared with head to head.
      gold: the judge.
    """

    stage: str
    samples: dict[str, str]
    baseline: str
    gold: GoldConfig


def run(config: Config, workdir: Path) -> None:
    """Writes judgements.jsonl, one line per prompt, model and opponent, and prints the win rates.

    A line is `{"id", "split", "model", "against", "preference", "score", "against_score", "judge"}`. `against` is
    "reference" or the baseline, which is not compared with itself. `preference` is 1 plus the mean of 1 for a win, 0.5
    for a tie and 0 for a loss, over all pairs of an output of the model and one of the opponent; the scores are means
    over outputs. Of a best-of-N record only the selected output counts.

    Raises:
      UserError: a file is missing or broken, the models were not sampled on the same prompts, or the baseline is none
        of them.
    """
    path = workdir / "judgements.jsonl"
    if path.exists():
        print(f"{path} is complete, nothing to do.")
        return
    samples = _read_samples(config)
    judgements = list(_judge(samples, config.baseline, _score(samples, make_scorer(config.gold)), config.gold.judge))
    write_text(path, "".join(json.dumps(judgement, allow_nan=False) + "\n" for judgement in judgements))
    for line in _win_rates(judgements):
        print(line)
    print(f"{path}: {len(judgements)} judgements.")


def _read_samples(config: Config) -> dict[str, list[Samples]]:
    """Each model's records in the order of the first model's."""
    if config.baseline not in config.samples:
        raise UserError(f'baseline is "{config.baseline}", expected one of {", ".join(config.samples)}.')
    if REFERENCE in config.samples:
        raise UserError(f'samples has a model named "{REFERENCE}", which stands for the human summaries: rename it.')
    samples = {model: read(path, Samples) for model, path in config.samples.items()}
    (first, expected), *others = samples.items()
    if not expected:
        raise UserError(f"{config.samples[first]} holds no samples, expected one line a prompt.")
    for model, records in others:
        found = {record.id: record for record in records}
        strangers = sorted(found.keys() ^ {record.id for record in expected})
        if strangers:
            raise UserError(
                f'"{strangers[0]}" and {len(strangers) - 1} other id(s) are only in one of {config.samples[first]} and '
                f"{config.samples[model]}, expected the same prompts in both."
            )
        samples[model] = [found[record.id] for record in expected]
        for one, other in zip(expected, samples[model], strict=True):
            for field in ("split", "prompt", REFERENCE):
                if getattr(one, field) != getattr(other, field):
                    raise UserError(
                        f'"{one.id}" has another {field} in {config.samples[model]} than in {config.samples[first]}, '
                        "expected the same in both."
                    )
    return samples


def _score(samples: Mapping[str, Sequence[Samples]], scorer: Scorer) -> dict[tuple[str, str], float]:
    """Scores by (prompt, output), of everything that is judged, each once."""
    pairs = {
        (record.prompt, output): None
        for records in samples.values()
        for record in records
        for output in (record.reference, *judged(record, record.outputs))
    }
    prompts, outputs = zip(*pairs, strict=True)
    scores = scorer([source_text(prompt) for prompt in prompts], outputs)
    return dict(zip(pairs, scores.tolist(), strict=True))


def _judge(
    samples: Mapping[str, Sequence[Samples]], baseline: str, scores: Mapping[tuple[str, str], float], judge: str
) -> Iterator[Judgement]:
    for model, records in samples.items():
        for record, base in zip(records, samples[baseline], strict=True):
            opponents = {REFERENCE: [record.reference]}
            if model != baseline:
                opponents[baseline] = judged(base, base.outputs)
            own = np.array([scores[record.prompt, output] for output in judged(record, record.outputs)])
            for against, outputs in opponents.items():
                other = np.array([scores[record.prompt, output] for output in outputs])
                won = (1 + np.sign(own[:, None] - other)) / 2
                yield {
                    "id": record.id,
                    "split": record.split,
                    "model": model,
                    "against": against,
                    "preference": 1 + float(won.mean()),
                    "score": float(own.mean()),
                    "against_score": float(other.mean()),
                    "judge": judge,
                }


def _win_rates(judgements: Sequence[Judgement]) -> Iterator[str]:
    groups: dict[tuple[str, str, str], list[float]] = {}
    for judgement in judgements:
        key = (judgement["model"], judgement["against"], judgement["split"])
        groups.setdefault(key, []).append(judgement["preference"])
    for (model, against, split), preferences in groups.items():
        rate = win_rate(preferences)
        error = "" if rate["standard_error"] is None else f" +- {rate['standard_error']:.1f}"
        yield f"{model} against {against}, {split}: win rate {rate['win_rate']:.1f}{error} % of {rate['n']}"
