import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_jax.data.records import Samples, read
from rlhf_jax.errors import UserError
from rlhf_jax.metrics.ranking import bradley_terry
from rlhf_jax.metrics.winrate import preferences_by_prompt, win_rate
from rlhf_jax.report.alpaca_eval import prompt_id
from rlhf_jax.stages import evaluate
from rlhf_jax.stages.runner import run_stage
from tests import tiny

WON, LOST, TIED = 205, 584, 16  # of AlpacaEval's alpaca-7b


def files(preferences: list[float], opponent: str = "text_davinci_003") -> dict[str, list[dict]]:
    """AlpacaEval's three files of one model, the annotations in another order than the outputs, as rows."""
    prompts = [f"Instruction {i}?" for i in range(len(preferences))]
    outputs = [{"instruction": p, "output": f"answer {p}", "generator": "alpaca-7b"} for p in prompts]
    references = [{"instruction": p, "output": f"reference {p}", "generator": "text_davinci_003"} for p in prompts]
    annotations = [
        {
            "instruction": prompt,
            "output_1": f"reference {prompt}",
            "generator_1": opponent,
            "output_2": f"answer {prompt}",
            "generator_2": "alpaca-7b",
            "annotator": "alpaca_eval_gpt4",
            "preference": preference,
        }
        for prompt, preference in zip(prompts, preferences, strict=True)
    ]
    return {"outputs": outputs, "references": references, "annotations": annotations[::-1]}


def converted(folder: Path, rows: dict[str, list[dict]], **changes: Any) -> tuple[list[Samples], list[dict] | None]:
    paths = {name: folder / f"{name}.json" for name in rows}
    for name, path in paths.items():
        path.write_text(json.dumps(rows[name]))
    config = {"annotations": "", **{name: str(path) for name, path in paths.items()}}
    config |= {
        "stage": "convert",
        "model": "alpaca",
        "split": "ood_test",
        "temperature": 0.7,
        "finish": "eos",
        "seed": 3,
    }
    run_stage(config | changes, folder / "run")
    judgements = folder / "run" / "judgements.jsonl"
    lines = [json.loads(line) for line in judgements.read_text().splitlines()] if judgements.exists() else None
    return read(folder / "run" / "samples.jsonl", Samples), lines


def test_a_published_win_rate_from_its_files(tmp_path):
    """205 wins, 584 losses and 16 ties, coded as AlpacaEval 1 and 2 do, are published as 26.46 %."""
    preferences = [2.0] * WON + [1.0] * LOST + [0, 1.5] * (TIED // 2)
    samples, judgements = converted(tmp_path, files(preferences))
    by_prompt = preferences_by_prompt(judgements, "alpaca", "reference", "ood_test")
    result = win_rate(list(by_prompt.values()))
    assert round(result["win_rate"], 2) == 26.46
    assert (result["wins"], result["losses"], result["ties"], result["n"]) == (WON, LOST, TIED, 805)
    expected = {prompt_id(f"Instruction {i}?"): value or 1.5 for i, value in enumerate(preferences)}
    assert by_prompt == expected
    assert [record.id for record in samples] == list(expected)
    assert {line["judge"] for line in judgements} == {"alpaca_eval_gpt4"}
    ranking = bradley_terry(judgements, resamples=2)
    assert [row["model"] for row in ranking] == ["reference", "alpaca"]


def test_samples_carry_what_the_files_and_the_config_say(tmp_path):
    rows = files([2.0])
    rows["outputs"][0]["output"] = ["one", "two"]
    del rows["annotations"]
    (record,), judgements = converted(tmp_path, rows, finish="length")
    assert judgements is None
    about = {"split": "ood_test", "prompt": "Instruction 0?", "reference": "reference Instruction 0?"}
    made = {"finish": ["length", "length"], "model": "alpaca", "checkpoint": "alpaca-7b", "temperature": 0.7, "seed": 3}
    assert record == tiny.samples(prompt_id("Instruction 0?"), ["one", "two"], **about | made)


def test_evaluate_reads_them(tmp_path):
    rows = files([2.0, 1.0])
    del rows["annotations"]
    converted(tmp_path, rows)
    paths = {"alpaca": str(tmp_path / "run" / "samples.jsonl")}
    evaluate.run(evaluate.Config("evaluate", paths, "", evaluate.Nli("", 5, 0), "default", {}, 0), tmp_path)
    results = json.loads((tmp_path / "evaluation.json").read_text())["models"]["alpaca"]["ood_test"]
    assert results["prompts"] == 2
    assert results["length"]["mean"] == 3


def test_an_opponent_that_is_not_the_reference_keeps_its_name(tmp_path):
    rows = files([1.25], opponent="sft")
    rows["annotations"][0]["output_1"] = "what sft said"
    _, (line,) = converted(tmp_path, rows)
    assert line["against"] == "sft"
    assert (line["preference"], line["score"], line["against_score"]) == (1.25, 0.25, 0.75)


def test_an_annotation_without_a_preference_is_left_out_and_counted(tmp_path, capsys):
    """As in AlpacaEval, most of whose published files have some."""
    samples, judgements = converted(tmp_path, files([2.0, None, 1.0]))
    assert [line["preference"] for line in judgements] == [1.0, 2.0] and len(samples) == 3
    assert "2 judgements; 1 of 3 annotations have no preference and are left out" in capsys.readouterr().out


def test_a_second_run_changes_nothing(tmp_path, capsys):
    rows = files([2.0])
    first = converted(tmp_path, rows)
    assert converted(tmp_path, rows) == first
    assert "is complete, nothing to do" in capsys.readouterr().out


def without(rows: list[dict], index: int) -> list[dict]:
    return rows[:index] + rows[index + 1 :]


def changed(rows: list[dict], **change: Any) -> list[dict]:
    return [{**rows[0], **change}, *rows[1:]]


def unnamed(row: dict) -> dict:
    return {key: value for key, value in row.items() if key != "generator"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "references",
            lambda rows: without(rows, 1),
            r"1 prompt\(s\) are only in one of .*outputs.json and .*references",
        ),
        ("outputs", lambda rows: without(rows, 0), r"1 prompt\(s\) are only in one of"),
        (
            "references",
            lambda rows: [row | {"output": ["x", "y"]} for row in rows],
            "2 outputs per prompt, expected one",
        ),
        ("references", lambda rows: [unnamed(row) for row in rows], "references.json names no generator"),
        ("annotations", lambda rows: without(rows, 0), "lacks 1 of 3 prompts against text_davinci_003, the first is"),
        ("annotations", lambda rows: changed(rows, instruction="other"), "annotates 'other', which is not a prompt of"),
        ("annotations", lambda rows: changed(rows, generator_2="gpt"), "for gpt, expected alpaca-7b alone"),
        ("annotations", lambda rows: changed(rows, output_2="x"), "with an output_2 that is not in .*outputs.json"),
        ("annotations", lambda rows: changed(rows, output_1="x"), "with an output_1 that is not in .*references.json"),
        ("annotations", lambda rows: [row | {"preference": None} for row in rows], "has no annotation with a pref"),
    ],
)
def test_files_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, name, change, message):
    rows = files([2.0, 1.0, 1.0])
    rows[name] = change(rows[name])
    with pytest.raises(UserError, match=message):
        converted(tmp_path, rows)
    assert not list((tmp_path / "run").glob("*.jsonl"))
