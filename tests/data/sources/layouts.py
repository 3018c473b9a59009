"""Files of a dataset's layout, with texts made up for the tests."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

type Row = dict[str, Any]


def write(file: Path, rows: Sequence[Row]) -> Path:
    """Writes rows in the format that the file's name says. `.json` is one array."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if file.name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
    elif ".array_record-" in file.name:
        _write_array_record(file, rows)
    elif file.name.endswith(".gz"):
        file.write_bytes(gzip.compress(lines.encode()))
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
