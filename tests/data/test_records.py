import codecs
import gzip
import json

import pytest

from rlhf_jax.data import records
from rlhf_jax.data.records import Example, Preference, Samples
from rlhf_jax.errors import UserError
from tests import tiny


def example(number: int) -> Example:
    return Example(f"pkg/{number}", "train", f"TEXT: é {number}\nTL;DR:", f"summary {number}\u2028still one line")


def samples(**changes) -> Samples:
    fields = {"id": "a", "outputs": ["x", ""], "rewards": [0.1, -2.0], "finish": ["eos", "length"], "selected": 0}
    return tiny.samples(**fields | changes)


@pytest.mark.parametrize(
    "written",
    [
        [example(0), example(1)],
        [Preference("a", "train", "p", "x", "", 0.5), Preference("b", "train", "p", "x", "y")],
        [samples(), samples(id="b", rewards=None, selected=None, temperature=1), samples(id="c", kl_k1=[0.5, -1.0])],
    ],
)
def test_what_is_written_is_read(tmp_path, written):
    path = tmp_path / "deep" / "records.jsonl"
    records.write(path, written)
    assert records.read(path, type(written[0])) == written
    assert len(path.read_bytes().splitlines()) == len(written)
    assert [entry.name for entry in path.parent.iterdir()] == ["records.jsonl"]


def test_lines_have_the_fields_of_the_contract():
    assert list(json.loads(records.to_line(Preference("a", "train", "p", "x", "y")))) == [
        "id", "split", "prompt", "chosen", "rejected",
    ]  # fmt: skip
    assert list(json.loads(records.to_line(samples()))) == [
        "id", "split", "prompt", "reference", "outputs", "rewards", "finish", "selected", "model", "checkpoint",
        "temperature", "n", "seed",
    ]  # fmt: skip


def test_a_killed_append_at_any_byte_loses_only_its_own_last_line(tmp_path):
    path = tmp_path / "samples.jsonl"
    assert records.read(path, Example, partial=True) == []
    records.append(path, [example(0)])
    kept = path.stat().st_size
    records.append(path, [example(1), example(2)])
    whole = path.read_bytes()
    for size in range(kept, len(whole) + 1):
        path.write_bytes(whole[:size])
        there = records.read(path, Example, partial=True)
        assert there == [example(number) for number in range(len(there))] and there
        records.append(path, [example(number) for number in range(len(there), 3)])
        assert path.read_bytes() == whole


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "samples.jsonl"
    records.write(path, [samples()])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        records.write(path, [samples(), samples(id="b", rewards=[float("nan"), 0.0])])
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_what_editors_and_tools_add_is_passed_over(tmp_path):
    """A byte order mark, blank lines, a compression."""
    path = tmp_path / "examples.jsonl.gz"
    text = GOOD + "\n" + GOOD.replace('"a"', '"b"') + " \n"
    path.write_bytes(gzip.compress(codecs.BOM_UTF8 + text.encode()))
    assert [record.id for record in records.read(path, Example)] == ["a", "b"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"examples\.jsonl\.gz cannot be read"):
        records.read(path, Example)


GOOD = '{"id": "a", "split": "train", "prompt": "p", "response": "r"}\n'


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", r"found \[1\], expected an object"),
        ('{"id": "b", "split": "train", "prompt": "p"}', "no field 'response'"),
        ('{"id": "b", "split": "train", "prompt": "p", "response": 3}', "'response' is 3, expected a valid string"),
        ('{"id": "b", "split": "train", "prompt": "p", "response": "r", "x": 1}', "unknown field 'x'"),
        ('{"id": "b", "split": "train", "prompt": " ", "response": "r"}', "prompt is empty"),
        ('{"id": "b", "split": "train", "prompt": "p", "response": ""}', "response is empty"),
        ('{"id": "a", "split": "train", "prompt": "p", "response": "r"}', "repeats the id 'a' of line 1"),
        ("\xff", "is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, second_line, message):
    path = tmp_path / "examples.jsonl"
    path.write_bytes((GOOD + second_line + "\n").encode("latin-1"))
    with pytest.raises(UserError, match=rf"examples\.jsonl:2: .*{message}"):
        records.read(path, Example)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (Samples, {"n": 3}, "n is 3, expected the number of outputs, 2"),
        (Samples, {"finish": ["eos"]}, "finish has 1 entries"),
        (Samples, {"finish": ["eos", "stop"]}, r"'finish\[1\]' is \"stop\", expected 'eos' or 'length'"),
        (Samples, {"rewards": [1.0]}, "rewards has 1 entries"),
        (Samples, {"rewards": [1.0, "2"]}, r"'rewards\[1\]' is \"2\", expected a valid number"),
        (Samples, {"rewards": [1.0, True]}, r"'rewards\[1\]' is true"),
        (Samples, {"rewards": [1.0, float("nan")]}, r"'rewards\[1\]' is NaN, expected a finite number"),
        (Samples, {"temperature": float("inf")}, "'temperature' is Infinity, expected a finite number"),
        (Samples, {"selected": 2}, "selected is 2"),
        (Samples, {"outputs": [], "finish": [], "n": 0}, "outputs is empty"),
        (Preference, {"rejected": "x"}, "same text"),
        (Preference, {"rejected": " x\n"}, "same text"),
        (Preference, {"margin": "0.1"}, "'margin' is"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(tmp_path, kind, changes, message):
    good = samples() if kind is Samples else Preference("a", "train", "p", "x", "y")
    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps(json.loads(records.to_line(good)) | changes) + "\n")
    with pytest.raises(UserError, match=rf"file\.jsonl:1: .*{message}"):
        records.read(path, kind)


HALF = "\\ud83d"  # half of an emoji, as JSON has it


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"id": "b", "split": "train", "prompt": "p", "response": "r HALF"}', "response"),
        ('{"id": "HALF", "split": "train", "prompt": "p", "response": "r"}', "id"),
        ('{"id": "b", "split": "train", "prompt": "\\ude00 p", "response": "r"}', "prompt"),
    ],
)
def test_half_of_a_character_is_refused_with_file_line_and_field(tmp_path, line, field):
    path = tmp_path / "examples.jsonl"
    path.write_text(GOOD + line.replace("HALF", HALF) + "\n")
    with pytest.raises(UserError, match=rf"examples\.jsonl:2: the field '{field}' is .* half of a character"):
        records.read(path, Example)
    with pytest.raises(UserError, match=rf"w: the field '{field}' is .* half of a character"):
        records.check(dict, json.loads(line.replace("HALF", HALF)), "w")
    with pytest.raises(UserError, match=r"the field 'outputs\[1\]' is .* half of a character at position 2"):
        samples(outputs=["x", "ab\ud83dc"])
    assert samples(outputs=["x", "ab\U0001f600c", ""][:2]).outputs[1] == "ab😀c"


def test_objects_of_a_file_that_is_not_utf_8_are_refused_with_their_line(tmp_path):
    path = tmp_path / "objects.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(UserError, match=r"objects\.jsonl:2 does not parse as JSON .*invalid start byte"):
        records.read_objects(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl does not exist"):
        records.read(tmp_path / "none.jsonl", Samples)


def test_objects_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "objects.jsonl"
    path.write_text('{"a": "one\u2028two"}\n{"a": 1}\n', encoding="utf-8")
    assert records.read_objects(path) == [{"a": "one\u2028two"}, {"a": 1}]
    for text, message in (("{}\n[1]\n", ":2 holds a JSON list"), ("{}\n\n{", ":3 does not parse")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            records.read_objects(path)
    with pytest.raises(UserError, match="nowhere does not exist"):
        records.read_objects(tmp_path / "nowhere")
