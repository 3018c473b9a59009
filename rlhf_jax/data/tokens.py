"""Records tokenised once, as `tokenise` wrote them: ArrayRecord shards in a folder of TFDS's layout.

`FOLDER/tokens`, beside the records, holds TFDS's own files, which `tfds.builder_from_directory` reads without
TensorFlow. `metadata.json` has the fingerprint of what made them. `lengths.npz` has the length of every record, so
that batches are planned before anything is read.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_jax.data.batches import Encoding, Item
from rlhf_jax.data.records import Example, Preference
from rlhf_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

FOLDER = "tokens"
# The fields of a record that are responses, in the order of an item's.
RESPONSES = {Example: ("response",), Preference: ("chosen", "rejected")}

type Fingerprint = dict[str, str | int]


def fingerprint(encoding: Encoding, kind: type[Example] | type[Preference]) -> Fingerprint:
    """Everything but their texts that the tokens of records depend on. The tokenizer is the SHA-256 of its parts."""
    tokenizer = encoding.tokenizer
    made_of = (tokenizer.backend_tokenizer.to_str(), tokenizer.bos_token_id, tokenizer.eos_token_id)
    return {
        "tokenizer": hashlib.sha256(json.dumps(made_of).encode()).hexdigest(),
        "records": kind.__name__,
        "max_prompt": encoding.max_prompt,
        "truncation": encoding.truncation,
        "separator": encoding.separator,
    }


class Split(Sequence[Item]):
    """The items of one split, each read from its shard on demand.

    `files` are the shards with their numbers of records, `features` and `responses` a record's fields and those of them
    that are an item's responses, and `lengths` `[items, 2]` int32, as `lengths_of`.
    """

    def __init__(
        self,
        files: Mapping[str, int],
        features: tfds.features.FeaturesDict,
        responses: Sequence[str],
        lengths: np.ndarray,
    ) -> None:
        from grain.sources import ArrayRecordDataSource

        self._files, self._features, self._responses = list(files), features, responses
        self._ends = np.cumsum(list(files.values()))
        self._source = ArrayRecordDataSource(self._files)
        self._rows = np.arange(len(lengths))
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Item:
        """Raises UserError if the record cannot be read."""
        record = self._record(index)
        margin = float(record.get("margin", math.nan))
        responses = [record[name].tolist() for name in self._responses]
        return Item(record["prompt"].tolist(), responses, None if math.isnan(margin) else margin)

    def id(self, index: int) -> str:
        """The id of an item's record."""
        return self._record(index)["id"].decode()

    def take(self, rows: np.ndarray) -> Split:
        """The items with these indices."""
        chosen = copy.copy(self)
        chosen._rows, chosen.lengths = self._rows[rows], self.lengths[rows]
        return chosen

    def _record(self, index: int) -> dict[str, Any]:
        row = int(self._rows[index])
        try:
            return self._features.deserialize_example_np(self._source[row])
        except (RuntimeError, ValueError, KeyError) as error:
            shard = self._files[np.searchsorted(self._ends, row, side="right")]
            raise UserError(f"{shard} has a record that cannot be read ({type(error).__name__}).") from error


def open_split(
    folder: Path,
    split: str,
    encoding: Encoding,
    kind: type[Example] | type[Preference],
    drop_shards: bool,
    responses: bool = True,
) -> Split:
    """The items of a split of `folder/tokens`, all of them.

    Args:
      folder: a folder that `prepare` wrote.
      encoding: of the stage that reads.
      drop_shards: True to leave out shards that cannot be read, and name them in a line of output.
      responses: False for prompts alone (N = 0).

    Raises:
      UserError: there are no tokens, they were made of other records than are beside them, or with another tokenizer or
        format, there is no such split, or a shard cannot be read and is not to be left out.
    """
    import tensorflow_datasets as tfds

    tokens = folder / FOLDER
    for needed in (folder / "corpus.json", tokens / "dataset_info.json"):
        if not needed.is_file():
            raise UserError(f"{needed} does not exist, expected a folder that was prepared with tokens.")
    builder = tfds.builder_from_directory(tokens)
    corpus = json.loads((folder / "corpus.json").read_text("utf-8"))
    _check_fingerprint(tokens, builder.info.metadata, {"source": corpus["fingerprint"], **fingerprint(encoding, kind)})
    if split not in builder.info.splits:
        raise UserError(f"{folder} has no {kind.__name__.lower()} of the split {split!r}")
    info = builder.info.splits[split]
    files = {str(path): count for path, count in zip(info.filepaths, info.shard_lengths, strict=True)}
    with np.load(tokens / "lengths.npz") as saved:
        lengths = saved[split]
    lost = [path for path, count in files.items() if not _is_readable(path, count)]
    if lost:
        _check_loss(lost, files, drop_shards)
        lengths = lengths[np.repeat([path not in lost for path in files], list(files.values()))]
        files = {path: count for path, count in files.items() if path not in lost}
    if not responses:
        lengths = lengths * np.array([1, 0], np.int32)
    return Split(files, builder.info.features, RESPONSES[kind] if responses else (), lengths)


def _check_loss(lost: Sequence[str], files: Mapping[str, int], drop_shards: bool) -> None:
    """Tells which shards are left out. Raises UserError if that was not asked for, or nothing is left."""
    if not drop_shards:
        raise UserError(
            f"{lost[0]} cannot be read, expected {files[lost[0]]} records; restore it, or leave out what cannot be "
            "read with config.loading.drop_shards = True"
        )
    if len(lost) == len(files):
        raise UserError(f"{lost[0]} cannot be read, nor any other shard of its split, expected some to be left.")
    print(f"{', '.join(lost)} cannot be read and is left out", flush=True)


def _check_fingerprint(tokens: Path, found: Mapping[str, Any], expected: Fingerprint) -> None:
    for name, value in expected.items():
        if found.get(name) != value:
            raise UserError(
                f"{tokens} was made with the {name} {found.get(name)!r} and the run has {value!r}, expected the same; "
                "prepare it anew, or change the run"
            )


def _is_readable(path: str, count: int) -> bool:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(path)
        try:
            return reader.num_records() == count
        finally:
            reader.close()
    except RuntimeError:
        return False
