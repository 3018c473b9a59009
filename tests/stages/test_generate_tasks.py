"""The stage against a real endpoint on this machine: what it writes, and that nothing is asked or paid twice."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_jax.data.self_instruct import seed_tasks
from rlhf_jax.data.sources import table
from rlhf_jax.data.sources.source import load
from rlhf_jax.errors import UserError
from rlhf_jax.llm_api.budget import SpendingConfig
from rlhf_jax.stages import generate_tasks
from tests.chat_server import PROMPT_TOKENS, endpoint_config, serving

SAMPLING = {"temperature": 1.0, "max_tokens": 100}
FREE = SpendingConfig(prompt_price=0.0, answer_price=0.0, limit=0.0)


def four_tasks(messages) -> str:
    """Three tasks of words drawn by the question, and one of another form."""
    [message] = messages
    dice = random.Random(message["content"])
    tasks = [
        f"{n}. Instruction: Take {' '.join(str(dice.randrange(1000)) for _ in range(6))} and so on.\n{n}. Output:\nYes."
        for n in (3, 4, 5)
    ]
    return "\n###\n".join([*tasks, "That is all."])


def config_of(server, **changes) -> generate_tasks.Config:
    endpoint = endpoint_config(server, parameters=SAMPLING, **changes.pop("endpoint", {}))
    defaults = {"kind": "sequential_instructions", "seed_tasks": "", "shown": 3, "tasks": 10, "requests": 50}
    rest = {"seed": 0, "cache": "", "endpoint": endpoint, "spending": FREE}
    return generate_tasks.Config(stage="generate_tasks", **{**defaults, **rest, **changes})


def rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "tasks.jsonl").read_text().splitlines()]


def test_a_test_set_is_made_and_prepare_reads_it(tmp_path, capsys):
    with serving(four_tasks) as server:
        config = config_of(server, tasks=11)
        generate_tasks.run(config, tmp_path)
        generate_tasks.run(config, tmp_path)
    made = rows(tmp_path)
    assert len(made) == len({row["instruction"] for row in made}) == 11
    assert {(row["dataset"], row["generator"], row["output"]) for row in made} == {
        ("sequential_instructions", "judge-1", "Yes.")
    }
    loaded = load(table.SOURCES["sequential_instructions"], "sequential", str(tmp_path), ["test"])
    records = list(loaded.rows["test"].values())
    assert [record.response for record in records] == ["Yes."] * 11
    assert all(row["instruction"] in record.prompt for row, record in zip(made, records, strict=True))

    facts = json.loads((tmp_path / "generation.json").read_text())
    assert (facts["requests"], facts["tasks"], facts["left_out"]) == (4, 11, {"form": 4})
    assert facts["spent"]["prompt_tokens"] == 4 * PROMPT_TOKENS
    assert sum(server.answered.values()) == 4, "the second run asked nothing"
    printed = capsys.readouterr().out
    assert "tasks.jsonl: 11 tasks; 400 prompt and 40 answer tokens" in printed and "is complete" in printed


def test_requests_show_seed_tasks_that_the_seed_draws(tmp_path):
    with serving(four_tasks) as server:
        for seed in (0, 0, 1):
            generate_tasks.run(config_of(server, seed=seed), tmp_path / f"{seed}{len(server.requests)}")
    questions = [body["messages"][0]["content"] for body in server.requests]
    assert sorted(questions[:4]) == sorted(questions[4:8]) != sorted(questions[8:])
    assert all(body["temperature"] == 1.0 and body["max_tokens"] == 100 for body in server.requests)
    known = {task.instruction for task in seed_tasks("sequential_instructions")}
    for question in questions:
        shown = [line.partition("Instruction: ")[2] for line in question.splitlines() if "Instruction: " in line]
        assert len(set(shown)) == 3 and known.issuperset(shown)


def test_a_limit_stops_it_and_it_goes_on_to_the_same_result(tmp_path):
    """Whatever the number of questions under way."""
    a_dollar_a_token = SpendingConfig(prompt_price=1e6, answer_price=0.0, limit=900.0)
    with serving(four_tasks) as server:
        config = config_of(server, tasks=20)
        generate_tasks.run(config, tmp_path / "whole")
        server.answered.clear()
        with pytest.raises(UserError, match=r"could pass spending\.limit, 900 USD of which [3-7]00\.0000 are spent"):
            generate_tasks.run(replace(config, spending=a_dollar_a_token), tmp_path / "cut")
        assert not (tmp_path / "cut" / "tasks.jsonl").exists()
        alone = replace(config.endpoint, concurrency=1)
        generate_tasks.run(replace(config, endpoint=alone), tmp_path / "cut")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert list(server.answered.values()) == [1] * 7


def test_too_few_tasks_in_all_answers_are_an_error_and_more_requests_go_on(tmp_path):
    with serving(four_tasks) as server:
        with pytest.raises(UserError, match=r"3 requests gave 9 tasks, expected 10; left out were {'form': 3}"):
            generate_tasks.run(config_of(server, requests=3), tmp_path)
        assert not (tmp_path / "tasks.jsonl").exists() and len(server.requests) == 3
        generate_tasks.run(config_of(server, requests=4), tmp_path)
        assert len(rows(tmp_path)) == 10 and len(server.requests) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shown": 21}, "shown is 21, expected 1 to 20"),
        ({"seed_tasks": "nowhere.jsonl"}, "nowhere.jsonl does not exist"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, changes, message):
    with serving(four_tasks) as server, pytest.raises(UserError, match=message):
        generate_tasks.run(config_of(server, **changes), tmp_path)
    assert not server.requests and not (tmp_path / "tasks.jsonl").exists()
