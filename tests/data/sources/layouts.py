"""Files of a dataset's layout, with texts made up for the tests."""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow

type Row = dict[str, Any]

COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
COMPRESS[".zst"] = lambda text: pyarrow.compress(text, codec="zstd", asbytes=True)


def write(file: Path, rows: Sequence[Row]) -> Path:
    """Writes rows in the format that the file's name says. `.json` is one array."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if file.name.endswith(".parquet"):
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
    elif ".array_record-" in file.name:
        _write_array_record(file, rows)
    elif file.suffix in (".csv", ".tsv"):
        with file.open("w", encoding="utf-8", newline="") as text:
            table = csv.DictWriter(text, rows[0], delimiter="," if file.suffix == ".csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    elif file.suffix in COMPRESS:
        file.write_bytes(COMPRESS[file.suffix](lines.encode()))
    else:
        file.write_text(json.dumps(list(rows)) if file.suffix == ".json" else lines, encoding="utf-8")
    return file


def _write_array_record(file: Path, rows: Sequence[Row]) -> None:
    """As TFDS writes rows of texts with `file_format="array_record"`: examples, and their features beside them."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in rows[0]})
    features.save_config(str(file.parent))
    writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
    for row in rows:
        writer.write(features.serialize_example(row))
    writer.close()
