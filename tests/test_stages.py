"""A stage's config is checked and its folder claimed before it runs; another config is refused, key by key."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from rlhf_jax import stages
from rlhf_jax.errors import UserError
from rlhf_jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Config:
    stage: str
    seed: int = 0
    steps: int = 10
    checkpoint_every: int = 5
    source: str = ""
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Path]]:
    """The calls of a stage named `fake`."""
    calls: list[tuple[Config, Path]] = []
    module = types.ModuleType("fake_stage")
    module.Config = Config

    def run(config: Config, workdir: Path) -> None:
        calls.append((config, workdir))
        (workdir / "result").touch()

    module.run = run
    monkeypatch.setitem(sys.modules, "fake_stage", module)
    monkeypatch.setitem(stages.STAGES, "fake", "fake_stage")
    return calls


def test_runs_the_stage_that_the_config_names(ran: list[Any], tmp_path: Path) -> None:
    stages.run_stage({"stage": "fake", "seed": 3}, tmp_path / "a" / "b")
    assert ran == [(Config("fake", seed=3), tmp_path / "a" / "b")]
    assert json.loads((tmp_path / "a" / "b" / "config.json").read_text()) == {"stage": "fake", "seed": 3}


def test_a_study_that_was_moved_goes_on(ran: list[Any], tmp_path: Path) -> None:
    config = {"stage": "fake", "source": "{workdir}/prepare/examples.jsonl"}
    stages.run_stage(config, tmp_path / "old" / "sft", study=tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    stages.run_stage(config, tmp_path / "new" / "sft", study=tmp_path / "new")
    assert [call[0].source for call in ran] == [f"{tmp_path}/{name}/prepare/examples.jsonl" for name in ("old", "new")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config lacks the key 'stage'; expected one of prepare, "),
        ({"stage": "fak"}, "config.stage is 'fak'; did you mean 'fake'?"),
        ({"stage": 3}, "config.stage is 3; expected one of "),
        ({"stage": "fake", "sed": 1}, "config has no key 'sed'; did you mean 'seed'?"),
    ],
)
def test_a_wrong_config_leaves_no_folder(ran: list[Any], tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        stages.run_stage(config, tmp_path / "run")
    assert str(error.value).startswith(message)
    assert not ran
    assert not (tmp_path / "run").exists()


def test_another_config_is_refused_and_every_difference_named(ran: list[Any], tmp_path: Path) -> None:
    stages.run_stage({"stage": "fake", "seed": 0, "optimizer": {"rate": 0.1, "clip": 1.0}}, tmp_path)
    written = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError) as error:
        stages.run_stage({"stage": "fake", "seed": 1, "optimizer": {"rate": 0.2, "clip": 1.0}, "steps": 3}, tmp_path)
    assert f"{tmp_path} was written by another config" in str(error.value)
    assert "(seed: 0 -> 1; optimizer.rate: 0.1 -> 0.2; steps: absent -> 3)" in str(error.value)
    assert len(ran) == 1
    assert (tmp_path / "config.json").read_text() == written


def test_a_config_that_was_refused_does_not_hold_its_folder(ran: list[Any], tmp_path: Path, monkeypatch) -> None:
    """What is refused on the devices alone has its folder by then; so has the stage of a study."""

    def refuse(config: Config, workdir: Path) -> None:
        raise UserError("too many devices")

    module = sys.modules["fake_stage"]
    with monkeypatch.context() as patch, pytest.raises(UserError, match="too many devices"):
        patch.setattr(module, "run", refuse)
        stages.run_stage({"stage": "fake", "seed": 1}, tmp_path / "study" / "sft")
    stages.claim(tmp_path / "study", {"seed": 1})
    stages.claim(tmp_path / "study", {"seed": 2})
    stages.run_stage({"stage": "fake", "seed": 2}, tmp_path / "study" / "sft")
    with pytest.raises(UserError, match=r"seed: 2 -> 3"):
        stages.claim(tmp_path / "study", {"seed": 3})


def test_what_does_not_change_the_result_may_change(
    ran: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages.run_stage({"stage": "fake", "checkpoint_every": 5}, tmp_path)
    stages.run_stage({"stage": "fake", "checkpoint_every": 1}, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["checkpoint_every"] == 1
    assert capsys.readouterr().out == f"{tmp_path} goes on with checkpoint_every: 5 -> 1\n"
    stages.run_stage({"stage": "fake", "checkpoint_every": 1}, tmp_path)
    assert capsys.readouterr().out == ""


def test_blocks_may_run_in_another_way_on_the_same_weights() -> None:
    """Scanning and rematerialisation change no number; an int8 trunk does."""
    before = {"blocks": {"scan": False, "remat": "none", "quantize_trunk": "none"}, "scan": False}
    after = {"blocks": {"scan": True, "remat": "full", "quantize_trunk": "int8"}, "scan": True}
    assert stages.differences(before, after) == (
        ["blocks.scan: false -> true", 'blocks.remat: "none" -> "full"'],
        ['blocks.quantize_trunk: "none" -> "int8"', "scan: false -> true"],
    )


def test_steps_may_change_under_a_constant_schedule_only(ran: list[Any], tmp_path: Path) -> None:
    for schedule, allowed in {"constant": True, "cosine": False}.items():
        first, second = (
            {"study": {"stage": "fake", "steps": steps, "optimizer": {"schedule": schedule}}} for steps in (10, 20)
        )
        change = ["study.steps: 10 -> 20"]
        assert stages.differences(first, second) == ((change, []) if allowed else ([], change))


def test_a_run_that_named_no_rules_goes_on_under_any() -> None:
    """Rules divide and change no number."""
    change = 'mesh.rules: absent -> {"vocab": []}'
    assert stages.differences({"mesh": {"data": 1}}, {"mesh": {"data": 1, "rules": {"vocab": []}}}) == ([change], [])


@pytest.mark.parametrize(
    "quirk", [{"mean_over": "microbatch"}, {"algorithm": {"paper": {"whiten_microbatches": True}}}], ids=str
)
def test_a_microbatch_may_change_unless_a_quirk_gives_it_a_meaning(quirk: dict[str, Any]) -> None:
    sizes = [{"microbatch": 4}, {"microbatch": 2}]
    change = ["microbatch: 4 -> 2"]
    assert stages.differences(*sizes) == (change, [])
    assert stages.differences(*({**size, **quirk} for size in sizes)) == ([], change)


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("sampling.batch_size", True),
        ("batch_size", False),
        ("mesh.tensor", True),
        ("rules.vocab", True),
        ("sampling.temperature", False),
    ],
)
def test_a_key_is_known_by_its_last_two_names(key: str, allowed: bool) -> None:
    *above, last = key.split(".")
    first, second = ({above[0]: {last: size}} if above else {last: size} for size in (1, 2))
    change = [f"{key}: 1 -> 2"]
    assert stages.differences(first, second) == ((change, []) if allowed else ([], change))


def test_a_broken_config_json_is_a_sentence(ran: list[Any], tmp_path: Path) -> None:
    (tmp_path / "result").touch()
    (tmp_path / "config.json").write_text('{"stage": "fa')
    with pytest.raises(UserError, match="config.json is not JSON"):
        stages.run_stage({"stage": "fake"}, tmp_path)


def test_a_workdir_that_is_a_file_is_a_sentence(ran: list[Any], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=f"the workdir {tmp_path}/run cannot be written"):
        stages.run_stage({"stage": "fake"}, tmp_path / "run")


def test_the_stages_with_a_mesh_are_those_that_run_on_every_host() -> None:
    """A stage on the mesh that ran on one of several hosts alone would wait for the others for ever."""

    def has_mesh(config: type) -> bool:
        hints = typing.get_type_hints(config).values()
        return Mesh in hints or any(dataclasses.is_dataclass(hint) and has_mesh(hint) for hint in hints)

    with_mesh = {name for name, module in stages.STAGES.items() if has_mesh(importlib.import_module(module).Config)}
    assert with_mesh | {"pipeline"} == stages.ON_EVERY_HOST
