"""A dataset: where its files are, how its rows become records, and the reader that does both."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from rlhf_jax.data.records import Example, Preference
from rlhf_jax.data.sources import files
from rlhf_jax.data.sources.rows import Row
from rlhf_jax.errors import UserError

Drop = Literal["rows", "shards"]


@dataclass(frozen=True)
class Source:
    """One dataset.

    Attributes:
      kind: what a row becomes.
      fields: from a row to the record's fields but `id` and `split`. None for a row that is of another dataset.
      files: of each split the file patterns that it may be under. The first that fits some files is taken.
      path: the dataset on the hub, as `owner/name` or `owner/name@revision`. "" if the config has to say.
      mirrors: other places with the same rows, or their source, in one of the layouts of `files`.
    """

    kind: type[Example] | type[Preference]
    fields: Callable[[Row], Mapping[str, Any] | None]
    files: Mapping[str, Sequence[str]]
    path: str = ""
    mirrors: tuple[str, ...] = ()


@dataclass
class Loaded:
    """The records of some splits of a dataset, and the rows and files that were left out.

    Attributes:
      rows: records per split by the number of their row, from 0 and over all files of the split.
      counts: number of rows per split, those without a record included.
      files: the files read. The path of one from the hub names its revision.
      lost: a sentence for each file that could not be read. The numbers of the rows behind it are then too low.
      left_out: a sentence for each row that holds no record.
    """

    rows: dict[str, dict[int, Example | Preference]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def load(source: Source, label: str, path: str, splits: Iterable[str], drop: Collection[Drop] = ()) -> Loaded:
    """Reads some splits of a dataset. A record's id is `label/split/number of its row`, a pattern quoted as in a URL.

    Args:
      source: which dataset.
      label: what the config calls it.
      path: a local folder or a dataset of the hub with the files. "" for `source.path`.
      splits: keys of `source.files`.
      drop: what is left out where it would be an error: "rows" that hold no record (a preference without a winner or
        of one text twice, an empty text), "shards" that cannot be read or are missing.

    Raises:
      UserError: no path, a split that there is not, what `files.locate` refuses, what is not to be dropped, or a
        split of which nothing is left.
    """
    splits = list(splits)
    if unknown := [split for split in splits if split not in source.files]:
        raise UserError(f"{label} has no split {unknown[0]!r}, expected one of {', '.join(source.files)}.")
    path = path or source.path
    if not path:
        raise UserError(f"{label} has no path, expected a local folder or a dataset of the hub.")
    others = [other for other in (source.path, *source.mirrors) if other and other != path]
    advice = f"; set path to a local folder with these files{''.join(f', or to {other}' for other in others)}"
    loaded = Loaded()
    for split, shards in files.locate(path, {split: source.files[split] for split in splits}, advice).items():
        records = loaded.rows[split] = {}
        for number, (where, row) in enumerate(_rows(shards, "shards" in drop, loaded)):
            loaded.counts[split] = number + 1
            try:
                fields = source.fields(row)
                if fields is not None:
                    records[number] = source.kind(id=f"{label}/{quote(split, safe='')}/{number}", split=split, **fields)
            except UserError as error:
                if "rows" not in drop:
                    raise UserError(f"{where}: {error}.") from error
                loaded.left_out.append(f"{where}: {error}")
        if not records:
            broken = f"; {loaded.left_out[-1]}" if loaded.left_out else ""
            raise UserError(f"{label} has no record in the split {split!r} of {path}, expected some{broken}.")
    return loaded


def _rows(shards: list[Path], drop: bool, loaded: Loaded) -> Iterator[tuple[str, Row]]:
    """The rows of a split's files, with where each is. Where `drop` says so, without the files that cannot be read."""
    for shard in sorted([*shards, *files.missing(shards)]):
        try:
            rows = files.read_rows(shard)
        except UserError as error:
            if not drop:
                raise
            loaded.lost.append(str(error).rstrip("."))
            continue
        loaded.files.append(str(shard))
        yield from ((f"{shard}:{line}", row) for line, row in enumerate(rows, start=1))
