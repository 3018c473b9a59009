"""Pairs of outputs to compare: each model with the human summaries and with a baseline."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.data.records import REFERENCE, Samples, read
from rlhf_jax.errors import UserError

type Judgement = dict[str, Any]


class Contest(NamedTuple):
    """A model and an opponent on one prompt, with their outputs."""

    record: Samples
    model: str
    against: str
    outputs: list[str]
    opponents: list[str]

    def judgement(self, win_fraction: float, score: float, against_score: float, judge: str) -> Judgement:
        """Makes a line of judgements.jsonl.

        Args:
          win_fraction: fraction of the comparisons that the model won. A tie counts half.
          score: of the model.
          against_score: of the opponent.
          judge: name of the judge.
        """
        return {
            "id": self.record.id,
            "split": self.record.split,
            "model": self.model,
            "against": self.against,
            "preference": 1 + win_fraction,
            "score": score,
            "against_score": against_score,
            "judge": judge,
        }


def check_names(models: Collection[str], baseline: str) -> None:
    """Raises UserError unless the baseline is one of the models, and none has the name of the human summaries."""
    if baseline not in models:
        raise UserError(f'baseline is "{baseline}", expected one of {", ".join(models)}.')
    if REFERENCE in models:
        raise UserError(f'samples has a model named "{REFERENCE}", which stands for the human summaries: rename it.')


def read_samples(files: Mapping[str, str], baseline: str) -> dict[str, list[Samples]]:
    """Reads the records of each model, in the order of the first model's.

    Args:
      files: model name to its samples.jsonl.
      baseline: the model that the others are compared with.

    Raises:
      UserError: a file is missing or broken, the models were not sampled on the same prompts, or the baseline is not
        one of them.
    """
    check_names(files, baseline)
    samples = {model: read(path, Samples) for model, path in files.items()}
    (first, expected), *others = samples.items()
    if not expected:
        raise UserError(f"{files[first]} has no samples, expected one line per prompt.")
    for model, records in others:
        found = {record.id: record for record in records}
        strangers = sorted(found.keys() ^ {record.id for record in expected})
        if strangers:
            raise UserError(
                f'"{strangers[0]}" and {len(strangers) - 1} other id(s) are only in one of {files[first]} and '
                f"{files[model]}, expected the same prompts in both."
            )
        samples[model] = [found[record.id] for record in expected]
        for one, other in zip(expected, samples[model], strict=True):
            for field in ("split", "prompt", REFERENCE):
                if getattr(one, field) != getattr(other, field):
                    raise UserError(
                        f'"{one.id}" has another {field} in {files[model]} than in {files[first]}, '
                        "expected the same in both."
                    )
    return samples


def contests(samples: Mapping[str, Sequence[Samples]], baseline: str, against_reference: bool) -> Iterator[Contest]:
    """Yields every model against the human summary, if wanted, and against the baseline, prompt by prompt."""
    for model, records in samples.items():
        for record, base in zip(records, samples[baseline], strict=True):
            outputs = record.answers(record.outputs)
            if against_reference:
                yield Contest(record, model, REFERENCE, outputs, [record.reference])
            if model != baseline:
                yield Contest(record, model, baseline, outputs, base.answers(base.outputs))


def pairs_of(contest: Contest, pairs: int) -> list[tuple[int, int]]:
    """Returns at most `pairs` pairs of an output and one of the opponent: the i-th with the i-th, or its only one."""
    outputs, opponents = len(contest.outputs), len(contest.opponents)
    count = min(pairs, max(outputs, opponents) if 1 in (outputs, opponents) else min(outputs, opponents))
    return [(i % outputs, i % opponents) for i in range(count)]
