"""Tokenises records once, in several processes, into the folder that `tokens` reads.

Only the ends of long prompts are dropped here. A stage leaves out the records that are too long for it.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from rlhf_jax.config import Count, CountOrZero, content_of, may_change
from rlhf_jax.data.batches import Encoding, from_examples, from_preferences, lengths_of
from rlhf_jax.data.records import Example, Preference
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.data.tokens import FOLDER, RESPONSES, Fingerprint, fingerprint
from rlhf_jax.files import whole

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

RECORDS_PER_SHARD = 8192


@dataclass(frozen=True)
class Config:
    """Settings of tokenising records. A stage that reads the tokens must say the same.

    Attributes:
      model: whose tokenizer, as `assets.resolve` takes it.
      max_prompt: tokens. A longer prompt is shortened. It is the largest prompt bucket of the stages.
      truncation: what a too long prompt loses, as in `data.tokenizer.encode_prompt`.
      separator: between prompt and response.
      num_workers: processes that tokenise. 0 does it in this one.
    """

    RENAMED: ClassVar[dict[str, str]] = {"workers": "num_workers"}

    model: str = content_of("model")
    max_prompt: Count
    truncation: Literal["text", "left"]
    separator: str
    num_workers: CountOrZero = may_change()


def write(
    folder: Path, splits: Mapping[str, Sequence[Example | Preference]], source: str, config: Config
) -> Fingerprint:
    """Tokenises splits of one kind of record into `folder/tokens`, which is whole or not there.

    `splits` are the records, of which an empty split is not written, and `source` is the fingerprint of all of them.
    Returns the fingerprint that the folder holds.

    Raises:
      UserError: there is no such tokenizer, or as `from_examples` and `from_preferences`.
    """
    tokenizer = load_tokenizer(config.model)
    encoding = Encoding(tokenizer, config.max_prompt, sys.maxsize, config.truncation, config.separator)
    splits = {split: records for split, records in splits.items() if records}
    kind = type(next(iter(splits.values()))[0])
    made_with = {"source": source, **fingerprint(encoding, kind)}
    with whole(folder / FOLDER) as partial_folder:
        partial_folder.mkdir()
        _write_shards(partial_folder, splits, encoding, made_with, config.num_workers)
    return made_with


def _write_shards(
    folder: Path,
    splits: Mapping[str, Sequence[Example | Preference]],
    encoding: Encoding,
    made_with: Fingerprint,
    num_workers: int,
) -> None:
    import tensorflow_datasets as tfds

    files = {split: _shard_files(folder, split, len(records)) for split, records in splits.items()}
    paths = [path for of_split in files.values() for path in of_split]
    chunks = [chunk for records in splits.values() for chunk in itertools.batched(records, RECORDS_PER_SHARD)]
    if num_workers:
        spawn = multiprocessing.get_context("spawn")  # JAX may have threads, which a fork would lose
        with ProcessPoolExecutor(num_workers, spawn) as pool:
            lengths = list(pool.map(partial(_write_shard, encoding), paths, chunks))
    else:
        lengths = list(map(partial(_write_shard, encoding), paths, chunks))

    by_path = dict(zip(paths, lengths, strict=True))
    by_split = {split: np.concatenate([by_path[path] for path in of_split]) for split, of_split in files.items()}
    np.savez(folder / "lengths.npz", **by_split)
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(by_path[path]) for path in of_split],
            num_bytes=sum(path.stat().st_size for path in of_split),
            filename_template=_template(folder, split),
        )
        for split, of_split in files.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=_features(type(chunks[0][0])),
        split_infos=infos,
        check_data=False,  # which would need TensorFlow
        description="Tokens for rlhf_jax; metadata.json says what made them.",
        metadata=tfds.core.MetadataDict(made_with),
    )


def _shard_files(folder: Path, split: str, records: int) -> list[Path]:
    shards = math.ceil(records / RECORDS_PER_SHARD)
    return [Path(path) for path in _template(folder, split).sharded_filepaths(shards)]


def _template(folder: Path, split: str) -> tfds.core.ShardedFileTemplate:
    import tensorflow_datasets as tfds

    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="rlhf_jax", split=split, filetype_suffix="array_record"
    )


def _features(kind: type[Example] | type[Preference]) -> tfds.features.FeaturesDict:
    """An id, ids of tokens, and of a preference its margin, NaN where it is not known."""
    import tensorflow_datasets as tfds

    ids = tfds.features.Tensor(shape=(None,), dtype=np.int32)
    margin = {"margin": tfds.features.Scalar(np.float32)} if kind is Preference else {}
    return tfds.features.FeaturesDict(
        {"id": tfds.features.Text(), "prompt": ids, **dict.fromkeys(RESPONSES[kind], ids), **margin}
    )


def _write_shard(encoding: Encoding, path: Path, records: Sequence[Example | Preference]) -> np.ndarray:
    """One file of tokenised records, in their order. Returns their lengths as `lengths_of`."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    kind = type(records[0])
    items, _ = (from_examples if kind is Example else from_preferences)(encoding, records)
    features = _features(kind)
    serializer = ExampleSerializer(features.get_serialized_info())
    writer = ArrayRecordWriter(str(path), "group_size:1")  # a record can be read without its neighbours
    for record, item in zip(records, items, strict=True):
        row = {"id": record.id, "prompt": item.prompt, **dict(zip(RESPONSES[kind], item.responses, strict=True))}
        if kind is Preference:
            row["margin"] = math.nan if item.margin is None else item.margin
        example = serializer.get_tf_example(features.encode_example(row))
        writer.write(example.SerializeToString(deterministic=True))  # the same bytes in every process
    writer.close()
    return lengths_of(items)
