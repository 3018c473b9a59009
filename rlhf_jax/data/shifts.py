"""The study's distribution shifts within one dataset: which of its rows are in distribution, and the splits they make.

Training then sees what is in distribution alone, and it is evaluated on that, on the rest and on both. After the
released code of Kirk et al. (2024). Its names of splits are kept, `test` being in distribution.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rlhf_jax.config import content_of
from rlhf_jax.data import formats, index_file
from rlhf_jax.data.records import Example, Preference
from rlhf_jax.errors import UserError

SUBREDDITS = ("relationship_advice", "AskReddit", "relationships", "tifu", "dating_advice")
LENGTH = "length"
SENTIMENT = "sentiment"
RANDOM = {"random_10": 10, "random_50": 50}  # percent
NAMES = (*SUBREDDITS, LENGTH, SENTIMENT, *RANDOM)

MAX_WORDS = 245

_FULL, _OOD = "full_", "ood_"
_HELD_OUT = ("validation", "test")
_SPLITS = ("train", *_HELD_OUT)

type LoadSentiment = Callable[[str], Callable[[Sequence[str]], Sequence[bool]]]
"""From a classifier's name to a function that says which texts are positive (`encoders.classifier`)."""


@dataclass(frozen=True)
class Shift:
    """A shift by name.

    Attributes:
      name: one of `NAMES`: a subreddit against all others. Posts of at most 245 words against longer ones. Posts of one
        sentiment against the others. Or 10 or 50 % of training and validation, drawn at random, with the test split
        whole and nothing out of distribution.
      indices: of `sentiment`, the index file with the rows that are in distribution, as the study's: a `.npy` of a dict
        from split to row numbers. "" for a classifier, and for the other shifts.
      mode: "paper" draws with replacement, as the released code does, so that 10 % are 9.5 % of the rows and 50 % are
        39.3 %. "default" draws without. The others are the same in both.
      classifier: of `sentiment`, a folder or hub name of a classifier with the label "positive", which finds the posts
        that are in distribution. "" for an index file, and for the other shifts.
    """

    name: str
    indices: str = content_of("data")
    mode: Literal["default", "paper"]
    classifier: str = content_of("model", default="")


def needed(split: str) -> str:
    """The dataset's own split that a split is made of: `test` for `full_test` and `ood_test`."""
    return split.removeprefix(_FULL).removeprefix(_OOD)


def check(shift: Shift) -> None:
    """Raises UserError for an unknown name, and unless `sentiment`, and no other, has an index file or a classifier."""
    if shift.name not in NAMES:
        raise UserError(f"The shift {shift.name!r} is unknown, expected one of {', '.join(NAMES)}.")
    if bool(shift.indices) + bool(shift.classifier) != (shift.name == SENTIMENT):
        raise UserError(
            f"The shift {shift.name} has indices {shift.indices!r} and classifier {shift.classifier!r}, expected one "
            f"of both for {SENTIMENT}, and neither for the others."
        )


def apply[R: (Example, Preference)](
    shift: Shift, splits: Mapping[str, Mapping[int, R]], counts: Mapping[str, int], load_sentiment: LoadSentiment
) -> dict[str, list[R]]:
    """Divides the records of a dataset.

    Args:
      splits: the records of some of the splits train, validation and test, by the number of their row.
      counts: number of rows of each of these splits, those without a record included.
      load_sentiment: loads the shift's classifier, if it has one.

    Returns:
      Each split's records in distribution, in order, under its own name. Of validation and test also all records
      (`full_test`) and, but for a random subset, the rest (`ood_test`). Each may be empty. A repeated record has an id
      of its own.

    Raises:
      UserError: as `check`. A dataset with other splits. An index file that is missing, not one or of other rows. Or a
        classifier that cannot be loaded.
    """
    check(shift)
    if unknown := [split for split in splits if split not in _SPLITS]:
        raise UserError(
            f"The shift {shift.name} is of datasets with the splits {', '.join(_SPLITS)}, expected no {unknown[0]!r}."
        )
    is_positive = load_sentiment(shift.classifier) if shift.classifier else None
    found: dict[str, list[R]] = {}
    for split, rows in splits.items():
        if split in _HELD_OUT:
            found[_FULL + split] = [replace(record, id=f"{record.id}/full") for record in rows.values()]
        if shift.name in RANDOM:
            found[split] = list(rows.values()) if split == "test" else _draw(shift, rows, counts[split])
            continue
        inside = _inside(shift, split, rows, counts[split], is_positive)
        found[split] = [record for number, record in rows.items() if number in inside]
        if split in _HELD_OUT:
            found[_OOD + split] = [record for number, record in rows.items() if number not in inside]
    return found


def _inside(
    shift: Shift,
    split: str,
    rows: Mapping[int, Example | Preference],
    count: int,
    is_positive: Callable[[Sequence[str]], Sequence[bool]] | None,
) -> set[int]:
    """The numbers of the rows that are in distribution."""
    if is_positive is not None:
        texts = {number: formats.source_text(record.prompt) for number, record in rows.items()}
        unique = list(dict.fromkeys(texts.values()))  # a post has several pairs of summaries
        positive = {text for text, found in zip(unique, is_positive(unique), strict=True) if found}
        return {number for number, text in texts.items() if text in positive}
    if shift.name == SENTIMENT:
        inside = index_file.read(shift.indices, split)
        if inside and max(inside) >= count:
            raise UserError(f"{shift.indices} names row {max(inside)} of {split!r}, expected at most {count - 1}.")
        return inside
    if shift.name == LENGTH:
        words = {number: len(formats.source_text(record.prompt).split(" ")) for number, record in rows.items()}
        return {number for number, count in words.items() if count <= MAX_WORDS}
    return {number for number, record in rows.items() if formats.subreddit(record.prompt) == shift.name}


def _draw[R: (Example, Preference)](shift: Shift, rows: Mapping[int, R], count: int) -> list[R]:
    """Some of a split's records. `paper` draws row numbers below `count`, of which those without a record are lost."""
    percent = RANDOM[shift.name]
    random = np.random.default_rng(percent)  # the released code's seeds
    if shift.mode == "default":
        records = list(rows.values())
        return [records[index] for index in sorted(random.permutation(len(rows))[: len(rows) * percent // 100])]
    drawn, times = [], Counter[int]()
    for number in random.integers(0, count, count * percent // 100).tolist():
        if number in rows:
            record = rows[number]
            drawn.append(replace(record, id=f"{record.id}/{times[number]}") if times[number] else record)
            times[number] += 1
    return drawn
