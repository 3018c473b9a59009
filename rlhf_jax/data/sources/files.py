"""The files of a dataset, in a local folder or on the Hugging Face hub, and the rows in them."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_jax.data import records, texts
from rlhf_jax.data.sources.rows import Row
from rlhf_jax.errors import UserError
from rlhf_jax.files import room

_HUB_NAME = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_NUMBERED = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?(?P<suffix>(\.\w+)*)")
_ARRAY_RECORD = ".array_record-"


def locate(path: str, patterns: Mapping[str, Sequence[str]], advice: str = "") -> dict[str, list[Path]]:
    """Finds the files of some splits, and downloads them where the path is not a local folder.

    Nothing that is in the hub's cache is downloaded again, and without a network the cache is enough.

    Args:
      path: a local folder, or a dataset of the hub as `owner/name` or `owner/name@revision`.
      patterns: of each split the file patterns it may be under. The first one that fits some files is taken.
      advice: the end of the sentence that says that there are no such files.

    Returns:
      The files of each split, sorted by name.

    Raises:
      UserError: there is no such folder or dataset, or a split has no files.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = _download(path, patterns, advice)
    found = {}
    for split, alternatives in patterns.items():
        matches = (_matching(folder, pattern) for pattern in alternatives)
        found[split] = next(filter(None, matches), [])
        if not found[split]:
            raise UserError(f"{path} has no file {' or '.join(alternatives)}, the split {split!r}{advice}.")
    return found


def _matching(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(file for file in folder.glob(pattern) if file.is_file())
    except (NotImplementedError, ValueError):
        raise UserError(f"{pattern!r} is no file pattern, expected one relative to {folder}.") from None


def _download(path: str, patterns: Mapping[str, Sequence[str]], advice: str) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    name = _HUB_NAME.fullmatch(path)
    if name is None:
        raise UserError(f"{path!r} is no folder, expected one, or a dataset of the hub as owner/name{advice}.")
    wanted = [pattern for alternatives in patterns.values() for pattern in alternatives]
    chosen = {"repo_type": "dataset", "revision": name["revision"], "allow_patterns": wanted}
    try:
        with room(Path(constants.HF_HUB_CACHE)):
            return Path(huggingface_hub.snapshot_download(name["name"], **chosen))
    except (OSError, errors.HFValidationError) as error:
        raise UserError(
            f"The dataset {path} is not on this machine and the hub did not give it ({type(error).__name__}); "
            f"missing: {', '.join(' or '.join(alternatives) for alternatives in patterns.values())}{advice}."
        ) from error


def missing(files: Sequence[Path]) -> list[Path]:
    """The files that others of a split, numbered like `train-00000-of-00003.parquet`, say that there are.

    The hub has put a hash of its own behind the number of each file. Of a missing one it is not known.
    """
    there, said = set(), set()
    for name in filter(None, (_NUMBERED.fullmatch(str(file)) for file in files)):
        numbered = f"{name['stem']}-{{:05}}-of-{name['count']}{name['suffix']}"
        there.add(numbered.format(int(name["number"])))
        said |= {numbered.format(number) for number in range(int(name["count"]))}
    return [Path(file) for file in sorted(said - there)]


def read_rows(file: Path) -> list[Row]:
    """The rows of one file.

    `.parquet`, `.json` (one array, or an object a line), `.jsonl`, `.ndjson`, `.csv` and `.tsv` (the first line names
    the columns), compressed or not (`texts.content`), and ArrayRecord as TFDS writes it
    (`.array_record-00000-of-00001`, with `features.json` beside it. TensorFlow is not needed).

    Raises:
      UserError: the file is of another kind, or it cannot be read to its end.
    """
    kind = Path(file.stem if file.suffix in texts.COMPRESSED else file.name).suffix
    try:
        if kind == ".parquet":
            return _read_parquet(file)
        if kind in (".json", ".jsonl", ".ndjson"):
            return _read_json(file)
        if kind in (".csv", ".tsv"):
            return _read_table(file, {".csv": ",", ".tsv": "\t"}[kind])
        if _ARRAY_RECORD in file.name:
            return _read_array_record(file)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{file} cannot be read ({' '.join(str(error).split())[:200]}).") from error
    raise UserError(
        f"{file} is of an unknown kind, expected .parquet, .json, .jsonl, .ndjson, .csv, .tsv or .array_record."
    )


def _read_parquet(file: Path) -> list[Row]:
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(texts.content(file))).to_pylist()


def _read_table(file: Path, separator: str) -> list[Row]:
    import pyarrow
    from pyarrow import csv

    text = texts.content(file)
    reading = csv.ReadOptions(block_size=max(1, len(text)))  # a row may be of any length
    parsing = csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    names = csv.open_csv(io.BytesIO(text), reading, parsing).schema.names
    as_written = csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))  # "007" is no number
    return csv.read_csv(io.BytesIO(text), reading, parsing, as_written).to_pylist()


def _read_json(file: Path) -> list[Row]:
    text = texts.content(file)
    if text.lstrip()[:1] != b"[":
        return records.read_objects(file)
    rows = json.loads(text.decode())
    if wrong := [number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)]:
        raise ValueError(f"entry {wrong[0]} is no JSON object")
    return rows


def _read_array_record(file: Path) -> list[Row]:
    import tensorflow_datasets as tfds
    from grain.sources import ArrayRecordDataSource

    features = tfds.features.FeaturesDict.from_config(str(file.parent))
    examples = ArrayRecordDataSource([str(file)])
    rows = [features.deserialize_example_np(examples[index]) for index in range(len(examples))]
    return [{k: v.decode() if isinstance(v, bytes) else v for k, v in row.items()} for row in rows]
