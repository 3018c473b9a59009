import codecs
import gzip
from pathlib import Path

import pytest

from rlhf_jax.data.sources import files
from rlhf_jax.errors import UserError
from tests.data.sources.layouts import write

ROWS = [
    {"id": "a", "text": "Tee – one\u2028pot"},
    {"id": "007", "text": 'two\nlines, "quoted"'},
    {"id": "c", "text": ""},
]


@pytest.mark.parametrize(
    "name",
    [
        *(f"rows.{kind}" for kind in ("parquet", "json", "jsonl", "ndjson", "csv", "tsv")),
        *(f"rows.jsonl.{kind}" for kind in ("gz", "bz2", "xz", "zst")),
        "set-train.array_record-00000-of-00001",
    ],
)
def test_the_same_rows_come_from_every_kind_of_file(tmp_path, name):
    file = write(tmp_path / name, ROWS)
    assert files.read_rows(file) == ROWS
    if file.suffix in (".json", ".jsonl", ".csv"):  # as editors and spreadsheets leave them
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes() + b"\n")
        assert files.read_rows(file) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 and no more", "cannot be read"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', ":2 does not parse as JSON"),
        ("a.jsonl", b'{"a": 1}\n[2]\n', ":2 holds a JSON list"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], "cannot be read"),
        ("a.array_record-00000-of-00001", b"x" * 100, "cannot be read"),
        ("a.jsonl.zst", b"x" * 9, "cannot be read"),
        ("a.csv", b"a,b\n1,2\n3\n", "cannot be read .*Expected 2 columns, got 1"),
        ("a.xlsx", b"a,b", "of an unknown kind, expected .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        files.read_rows(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_pattern_that_fits_is_taken(tmp_path):
    for name in ("data/train-1.json", "data/train-0.json", "train.jsonl", "valid.jsonl"):
        write(tmp_path / name, ROWS)
    found = files.locate(str(tmp_path), {"train": ("*.csv", "data/train-*.json", "train.jsonl"), "dev": ("v*",)})
    train = [tmp_path / "data" / f"train-{number}.json" for number in (0, 1)]
    assert found == {"train": train, "dev": [tmp_path / "valid.jsonl"]}


@pytest.mark.parametrize(
    ("path", "pattern", "message"),
    [
        ("", "test.jsonl", r"has no file test\.jsonl, the split 'test'; ask Ann\.$"),
        ("", "/etc/*", "'/etc/\\*' is no file pattern"),
        ("no/such/folder", "x", "'no/such/folder' is no folder, expected one, or a dataset of the hub"),
    ],
)
def test_a_place_without_the_files_is_one_sentence(tmp_path, path, pattern, message):
    with pytest.raises(UserError, match=message):
        files.locate(path or str(tmp_path), {"test": (pattern,)}, "; ask Ann")


def test_numbered_files_say_how_many_they_are():
    def named(*numbers: int) -> list[Path]:
        return [Path(f"d/train-{number:05}-of-00003.parquet") for number in numbers]

    assert files.missing(named(0, 1, 2)) == []
    assert files.missing(named(1)) == named(0, 2)
    hashed = [Path("train-00000-of-00003-9f3a.parquet"), Path("train-00002-of-00003-07bc.parquet")]
    assert files.missing(hashed) == [Path("train-00001-of-00003.parquet")]
    assert files.missing([*hashed, Path("train-00001-of-00003-11.parquet")]) == []
    shards = [Path(f"set-train.array_record-0000{number}-of-00002") for number in (0, 1)]
    assert files.missing(shards[1:]) == shards[:1]
    assert files.missing([Path("a.jsonl"), Path("b-1.json")]) == []
