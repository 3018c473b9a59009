"""The splits of one study, put together from datasets."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rlhf_jax.config import content_of
from rlhf_jax.data import shifts
from rlhf_jax.data.records import Example, Preference
from rlhf_jax.data.sources import table
from rlhf_jax.data.sources.source import Drop, Source, load
from rlhf_jax.errors import UserError

_RANGE = re.compile(r"(?P<split>.+?)(\[(?P<start>\d*):(?P<stop>\d*)\])?")


@dataclass(frozen=True)
class Part:
    """The part of a study that comes from one dataset.

    Attributes:
      source: a key of `sources.table.SOURCES`, or `columns` for any other dataset.
      path: a local folder with the dataset's files, or its name on the hub, `owner/name` or `owner/name@revision`.
        "" for where the study has it from.
      splits: from each of the study's splits that come from here to the dataset's own, optionally sliced
        (`train[500:]`). Under a shift the dataset has `ood_test` and the like too. For `columns` it is the pattern of
        the file names, such as `data/train-*.parquet`.
      columns: for `columns`, each field of a record as a text with names of columns in braces. Empty for the others.
      shift: which rows are in distribution. None for all.
      drop: what is left out instead of being an error: "rows" that hold no record, "shards" that cannot be read.
    """

    RENAMED: ClassVar[dict[str, str]] = {"place": "path"}

    source: str
    path: str = content_of("named data")
    splits: dict[str, str]
    columns: dict[str, str]
    shift: shifts.Shift | None
    drop: tuple[Drop, ...]


@dataclass
class Gathered:
    """The records of each of the study's splits, and of each part what there is to know of it."""

    splits: dict[str, list[Example | Preference]]
    facts: dict[str, dict[str, Any]]


def check(parts: Mapping[str, Part], wanted: Collection[str], kind: type[Example] | type[Preference]) -> None:
    """Checks the settings of `gather`, whose arguments these are.

    Raises:
      UserError: a split that no part has, a dataset or shift that does not exist, or a part of another kind.
    """
    offered = list(dict.fromkeys(split for part in parts.values() for split in part.splits))
    if unknown := [split for split in wanted if split not in offered]:
        raise UserError(f"splits has the key {unknown[0]!r}, expected some of {', '.join(offered)}.")
    for name, part in parts.items():
        if part.shift is not None:
            shifts.check(part.shift)
        if ranges := _ranges(part, wanted):
            source, _ = _source(part, ranges)
            if source.kind is not kind:
                raise UserError(f"sources.{name} holds {source.kind.__name__} records, expected {kind.__name__}.")


def gather(
    parts: Mapping[str, Part],
    wanted: Collection[str],
    kind: type[Example] | type[Preference],
    load_sentiment: shifts.LoadSentiment,
) -> Gathered:
    """Reads what is wanted of the parts. A record's id begins with the part's name.

    Args:
      parts: by a name of the user's.
      wanted: names of the study's splits. Others that a part has are not read.
      kind: what all records have to be.
      load_sentiment: loads the classifier of a shift.

    Raises:
      UserError: as `check`, a split that comes out empty, a part with one record in two splits, or as `source.load` and
        `shifts.apply`.
    """
    check(parts, wanted, kind)
    gathered = Gathered({split: [] for split in wanted}, {})
    for name, part in parts.items():
        if not gathered.splits.keys().isdisjoint(part.splits):
            _add(gathered, name, part, load_sentiment)
    if empty := [split for split, records in gathered.splits.items() if not records]:
        raise UserError(f"The split {empty[0]!r} has no records, expected some: it is cut to rows that there are not.")
    return gathered


def _add(
    gathered: Gathered,
    name: str,
    part: Part,
    load_sentiment: shifts.LoadSentiment,
) -> None:
    ranges = _ranges(part, gathered.splits)
    source, needed = _source(part, ranges)
    loaded = load(source, name, part.path, needed, part.drop)
    splits = {split: list(rows.values()) for split, rows in loaded.rows.items()}
    if part.shift is not None:
        if part.shift.indices and loaded.lost:
            raise UserError(f"{part.shift.indices} counts rows of files that are lost: {loaded.lost[0]}.")
        splits = shifts.apply(part.shift, loaded.rows, loaded.counts, load_sentiment)
    taken: dict[str, str] = {}
    for ours, (theirs, chosen) in ranges.items():
        if theirs not in splits:
            raise UserError(f"sources.{name} has no split {theirs!r}, expected one of {', '.join(splits)}.")
        if not splits[theirs]:  # `load` refuses one that is so without a shift
            raise UserError(
                f"The shift {part.shift.name} leaves nothing of the split {theirs!r}, expected some records."
            )
        for record in splits[theirs][chosen]:
            if taken.setdefault(record.id, ours) != ours:
                raise UserError(f"The record {record.id} is in {taken[record.id]} and {ours}, expected one of them.")
            gathered.splits[ours].append(replace(record, split=ours))
    gathered.facts[name] = {
        "source": part.source,
        "path": part.path or source.path,
        "files": loaded.files,
        "lost": loaded.lost,
        "rows_left_out": len(loaded.left_out),
        "first_left_out": next(iter(loaded.left_out), ""),
    }


def _ranges(part: Part, wanted: Collection[str]) -> dict[str, tuple[str, slice]]:
    """By each wanted split of a part, the dataset's own and which of its records."""
    return {ours: _parse(theirs) for ours, theirs in part.splits.items() if ours in wanted}


def _source(part: Part, ranges: Mapping[str, tuple[str, slice]]) -> tuple[Source, dict[str, None]]:
    """The dataset of a part, and those of its splits that are needed."""
    needed = {split if part.shift is None else shifts.needed(split): None for split, _ in ranges.values()}
    return table.source(part.source, part.columns, needed), needed


def _parse(split: str) -> tuple[str, slice]:
    """`train[500:]` as `train` and a slice."""
    parsed = _RANGE.fullmatch(split)
    if parsed is None:
        raise UserError("splits names an empty split, expected one of the dataset's.")
    start, stop = (int(parsed[end]) if parsed[end] else None for end in ("start", "stop"))
    return parsed["split"], slice(start, stop)
