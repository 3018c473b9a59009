import pytest

from rlhf_jax.data.records import Example, Preference
from rlhf_jax.data.sources.rows import ranked, text, value
from rlhf_jax.data.sources.source import Source, load
from rlhf_jax.errors import UserError
from tests.data.sources.layouts import write


def pair(row):
    """`None` for a row of another set, as sources that share their files do."""
    if row.get("other"):
        return None
    answers = text(row, "a"), text(row, "b")
    return {"prompt": text(row, "question"), **ranked(answers, value(row, "better"), (1, 2))}


PAIRS = Source(Preference, pair, {"train": ("train-*.json",), "test": ("test.jsonl",)}, "ann/pairs", ("bob/pairs",))


def row(number: int, **changes):
    return {"question": f"q{number}?", "a": f" first {number}", "b": f"second {number}\n", "better": 1} | changes


@pytest.fixture
def folder(tmp_path):
    """Two shards, of which the first has a row of another set."""
    write(tmp_path / "train-00000-of-00002.json", [row(0), row(1, other=True), row(2, better=2)])
    write(tmp_path / "train-00001-of-00002.json", [row(3)])
    write(tmp_path / "test.jsonl", [row(0)])
    return tmp_path


def test_records_are_numbered_by_their_rows_over_all_files(folder):
    loaded = load(PAIRS, "pairs", str(folder), ["train"])
    assert loaded.rows == {
        "train": {
            0: Preference("pairs/train/0", "train", "q0?", "first 0", "second 0"),
            2: Preference("pairs/train/2", "train", "q2?", "second 2", "first 2"),
            3: Preference("pairs/train/3", "train", "q3?", "first 3", "second 3"),
        }
    }
    assert loaded.files == [str(folder / f"train-0000{number}-of-00002.json") for number in (0, 1)]
    assert loaded.lost == loaded.left_out == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"better": None}, "has no winner: found None, expected 1 or 2"),
        ({"b": "first 4 "}, "chosen and rejected are the same text"),
        ({"a": None}, "has None in the column 'a', expected text"),
    ],
)
def test_a_row_that_holds_no_record_is_an_error_or_left_out(folder, changes, message):
    file = write(folder / "train-00001-of-00002.json", [row(3), row(4, **changes), row(5)])
    with pytest.raises(UserError, match=rf"^{file}:2: {message}"):
        load(PAIRS, "pairs", str(folder), ["train"], ["shards"])
    loaded = load(PAIRS, "pairs", str(folder), ["train"], ["rows"])
    assert list(loaded.rows["train"]) == [0, 2, 3, 5]
    (sentence,) = loaded.left_out
    assert sentence.startswith(f"{file}:2: {message}")


@pytest.mark.parametrize("broken", ["unreadable", "missing"])
def test_a_lost_shard_is_an_error_or_named(folder, broken):
    file = folder / "train-00000-of-00002.json"
    if broken == "missing":
        file.unlink()
    else:
        file.write_text('[{"question": ')
    with pytest.raises(UserError, match=rf"^{file} cannot be read"):
        load(PAIRS, "pairs", str(folder), ["train"], ["rows"])
    loaded = load(PAIRS, "pairs", str(folder), ["train"], ["shards"])
    assert [record.prompt for record in loaded.rows["train"].values()] == ["q3?"]
    assert loaded.files == [str(folder / "train-00001-of-00002.json")]
    assert len(loaded.lost) == 1 and str(file) in loaded.lost[0]


def test_a_place_without_files_names_the_mirrors(tmp_path):
    with pytest.raises(UserError) as error:
        load(PAIRS, "pairs", str(tmp_path), ["test"])
    assert str(error.value) == (
        f"{tmp_path} has no file test.jsonl, the split 'test'; set path to a local folder with these files, "
        "or to ann/pairs, or to bob/pairs."
    )
    with pytest.raises(UserError, match="pairs has no path"):
        load(Source(Example, pair, {"test": ("*",)}), "pairs", "", ["test"])
