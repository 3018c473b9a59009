"""People as the judge: blind questions, and judgements from their answers.

A question is a prompt and two texts, A and B. Only the key says which of them is the model's. It is a file that the
page does not contain, and answers name only questions. So the people who answer do not see the models.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Literal, NamedTuple, TypedDict

import numpy as np

from rlhf_jax.config import NOT_EMPTY, content_of
from rlhf_jax.data.records import read_objects
from rlhf_jax.errors import UserError
from rlhf_jax.judges.pairs import Contest, Judgement, pairs_of

_PLACE = ("id", "split", "model", "against")
CHOICES = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""Win fraction of A."""


@dataclass(frozen=True)
class PeopleConfig:
    """The files of people's answers.

    Attributes:
      key: key.jsonl, written beside the page that was answered.
      answers: the files saved from the page.
    """

    key: str = content_of("data")
    answers: Annotated[tuple[str, ...], NOT_EMPTY] = content_of("data")


class Comparison(NamedTuple):
    """Two texts to compare: the fields that the page shows, and those that only the key has."""

    question: str
    prompt: str
    a: str
    b: str
    id: str
    split: str
    model: str
    against: str
    model_is: str  # "a", "b", or "both" if the texts are equal and nobody is asked

    def shown(self) -> dict[str, str]:
        """Returns the fields that the page may contain."""
        return {"question": self.question, "prompt": self.prompt, "a": self.a, "b": self.b}

    def key(self) -> dict[str, str]:
        """Returns a line of key.jsonl."""
        return {name: getattr(self, name) for name in _KeyLine.__annotations__}


class _KeyLine(TypedDict):
    question: str
    id: str
    split: str
    model: str
    against: str
    model_is: Literal["a", "b", "both"]


class _AnswerLine(TypedDict):
    question: str
    choice: Literal["a", "tie", "b"]
    annotator: str


def comparisons(compared: Sequence[Contest], pairs: int, seed: int) -> list[Comparison]:
    """Makes the questions about contests. Their order and sides are drawn from the seed.

    A question's name is a digest of its texts and sides, so that its answers cannot count for another page.
    """
    rng = np.random.default_rng(seed)
    found = [question for contest in compared for question in _comparisons(contest, pairs, rng)]
    return [found[index] for index in rng.permutation(len(found))]


def _comparisons(contest: Contest, pairs: int, rng: np.random.Generator) -> Iterator[Comparison]:
    record = contest.record
    for i, j in pairs_of(contest, pairs):
        own, other = contest.outputs[i].strip(), contest.opponents[j].strip()
        model_is = "ab"[rng.integers(2)]
        a, b = (own, other) if model_is == "a" else (other, own)
        told = json.dumps([record.id, contest.model, contest.against, i, j, record.prompt, a, b])
        name = hashlib.sha256(told.encode()).hexdigest()[:16]
        sides = (contest.model, contest.against, "both" if a == b else model_is)
        yield Comparison(name, record.prompt, a, b, record.id, record.split, *sides)


def judge_by_people(compared: Sequence[Contest], config: PeopleConfig) -> list[Judgement]:
    """Makes lines of judgements.jsonl for answered contests: the mean over pairs of the mean over annotators.

    Equal texts are a tie and are not asked about. Questions without an answer do not count.

    Raises:
      UserError: a file is missing or broken, an answer is to a question that the key does not have, one person
        answered a question twice, or the key is of other samples.
    """
    key = {line["question"]: line for line in read_objects(config.key, _KeyLine)}
    given: dict[str, dict[str, float]] = {name: {} for name in key}  # win fraction of A by question, then annotator
    for path in config.answers:
        for line in read_objects(path, _AnswerLine):
            asked, annotator = key.get(line["question"]), line["annotator"]
            if asked is None:
                raise UserError(f"{path} answers the question {line['question']!r}, which {config.key} does not have.")
            if annotator in given[line["question"]]:
                raise UserError(f"{path}: {annotator!r} answers {line['question']!r} twice, expected one answer.")
            given[line["question"]][annotator] = CHOICES[line["choice"]]
    fractions: dict[tuple[str, ...], list[float]] = {}
    for name, line in key.items():
        won = fmean(given[name].values()) if given[name] else None
        fraction = {"a": won, "b": None if won is None else 1 - won, "both": 0.5}[line["model_is"]]
        if fraction is not None:
            fractions.setdefault(tuple(line[part] for part in _PLACE), []).append(fraction)
    annotators = set().union(*given.values())
    places = {(c.record.id, c.record.split, c.model, c.against): c for c in compared}
    strangers = fractions.keys() - places.keys()
    if strangers:
        raise UserError(f"{config.key} compares {' '.join(min(strangers))}, which the samples do not have.")
    judge = f"people ({len(annotators)})"
    means = {place: fmean(found) for place, found in fractions.items()}
    return [places[p].judgement(means[p], means[p], 1 - means[p], judge) for p in places if p in means]
