import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.report.alpaca_eval import Annotation, Outputs, prompt_id, read_annotations, read_outputs

ROW = {"instruction": "Name a river.", "output": "The Oder.", "generator": "alpaca-7b", "dataset": "koala"}
ANNOTATION = {
    "instruction": "Name a river.",
    "output_1": "Rhine",
    "generator_1": "text_davinci_003",
    "dataset": "koala",
    "output_2": "The Oder.",
    "generator_2": "alpaca-7b",
    "annotator": "alpaca_eval_gpt4",
    "preference": 2.0,
    "price_per_example": 0.02,
}


def dump(folder: Path, rows: Any) -> Path:
    path = folder / "file.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return path


def test_model_outputs(tmp_path):
    path = dump(tmp_path, [ROW, {**ROW, "instruction": "Name a lake.", "output": ""}])
    assert read_outputs(path) == Outputs("alpaca-7b", {"Name a river.": ["The Oder."], "Name a lake.": [""]})


def test_decodes_have_several_outputs_and_need_no_generator(tmp_path):
    path = dump(tmp_path, [{"instruction": "b", "output": ["x", "y"]}, {"instruction": "a", "output": ["x", "x"]}])
    assert read_outputs(path) == Outputs("", {"b": ["x", "y"], "a": ["x", "x"]})
    assert list(read_outputs(path).by_prompt) == ["b", "a"]


def test_an_input_is_part_of_the_prompt(tmp_path):
    rows = [{"instruction": "Add.", "input": text, "output": "3"} for text in ("1 + 2", "2 + 1", "")]
    prompts = list(read_outputs(dump(tmp_path, rows)).by_prompt)
    assert prompts == ["Add.\n\n### Input:\n1 + 2", "Add.\n\n### Input:\n2 + 1", "Add."]


def test_ids_are_of_the_text_alone():
    assert prompt_id("Name a river.") == prompt_id("Name a river.") != prompt_id("Name a river")
    assert len(prompt_id("é")) == 16


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("[{", "file.json is not JSON"),
        ([], "file.json holds no array of one object or more"),
        ({"instruction": "x"}, "file.json holds no array"),
        ([ROW, 3], "row 1: found 3, expected an object"),
        ([{"output": "x"}], "row 0: has no field 'instruction'"),
        ([{**ROW, "instruction": " "}], "row 0 has an empty instruction"),
        ([{**ROW, "input": 4}], "row 0: the field 'input' is 4, expected a valid string"),
        ([{**ROW, "output": None}], "row 0: the field 'output' is null, expected a valid list"),
        ([{**ROW, "output": []}], r"row 0: the field 'output' is \[\]"),
        ([{**ROW, "output": ["x", 1]}], r"row 0: the field 'output\[1\]' is 1"),
        ([ROW, ROW], "row 1 repeats the prompt 'Name a river.'"),
        (
            [ROW, ROW | {"instruction": "b", "output": ["x", "y"]}],
            r"row 1 has 2 output\(s\), expected 1 as in the",
        ),
        (
            [ROW, ROW | {"instruction": "b", "generator": "gpt"}],
            "outputs of 'alpaca-7b', 'gpt', expected one gen",
        ),
        ([ROW, {"instruction": "b", "output": "x"}], "outputs of '', 'alpaca-7b', expected one generator"),
    ],
)
def test_broken_outputs_are_a_sentence(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_outputs(dump(tmp_path, rows))


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="nothing.json does not exist"):
        read_outputs(tmp_path / "nothing.json")


def test_annotations(tmp_path):
    expected = Annotation(
        prompt="Name a river.",
        generator="alpaca-7b",
        output="The Oder.",
        reference_generator="text_davinci_003",
        reference_output="Rhine",
        annotator="alpaca_eval_gpt4",
        preference=2.0,
    )
    head_to_head = {**ANNOTATION, "generator_1": "sft", "preference": 1.0000395}
    assert read_annotations(dump(tmp_path, [ANNOTATION, head_to_head])) == [
        expected,
        dataclasses.replace(expected, reference_generator="sft", preference=1.0000395),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preference": 3}, "row 1 has preference = 3.0, expected null, 0, or from 1"),
        ({"preference": "2"}, "row 1: the field 'preference' is"),
        ({"preference": float("nan")}, "row 1 has preference = nan"),
        ({"output_1": None}, "row 1: the field 'output_1' is null"),
        ({"annotator": 3}, "row 1: the field 'annotator' is 3"),
        ({}, "row 1 annotates alpaca-7b against text_davinci_003 on 'Name a river.' again"),
    ],
)
def test_broken_annotations_are_a_sentence(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_annotations(dump(tmp_path, [ANNOTATION, {**ANNOTATION, **change}]))
