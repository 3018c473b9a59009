"""A stage's config is checked and its folder claimed before it runs."""

import dataclasses
import importlib
import json
import os
import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from rlhf_jax.config import to_dict
from rlhf_jax.configs import tiny
from rlhf_jax.errors import UserError
from rlhf_jax.lock import locked
from rlhf_jax.parallel.sharding import Mesh
from rlhf_jax.stages import runner


@dataclasses.dataclass(frozen=True)
class Config:
    stage: str
    seed: int = 0
    source: str = ""


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Path]]:
    """The calls of a stage named `fake`."""
    calls: list[tuple[Config, Path]] = []
    module = types.ModuleType("rlhf_jax.stages.fake")
    module.Config = Config

    def run(config: Config, workdir: Path) -> None:
        calls.append((config, workdir))
        (workdir / "result").touch()

    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(runner.STAGES, "fake", "main")
    return calls


def test_runs_the_stage_that_the_config_names(ran: list[Any], tmp_path: Path) -> None:
    runner.run_stage({"stage": "fake", "seed": 3}, tmp_path / "a" / "b")
    assert ran == [(Config("fake", seed=3), tmp_path / "a" / "b")]
    assert json.loads((tmp_path / "a" / "b" / "config.json").read_text()) == {"stage": "fake", "seed": 3}


def test_a_study_that_was_moved_goes_on(ran: list[Any], tmp_path: Path) -> None:
    config = {"stage": "fake", "source": "{workdir}/prepare/examples.jsonl"}
    runner.run_stage(config, tmp_path / "old" / "sft", study=tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    runner.run_stage(config, tmp_path / "new" / "sft", study=tmp_path / "new")
    assert [call[0].source for call in ran] == [f"{tmp_path}/{name}/prepare/examples.jsonl" for name in ("old", "new")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config lacks the key 'stage'; expected one of prepare, "),
        ({"stage": "fak"}, "config.stage is 'fak'; did you mean 'fake'?"),
        ({"stage": "frontier"}, "config.stage is 'frontier', which is 'reward_vs_kl' now"),
        ({"stage": 3}, "config.stage is 3; expected one of "),
        ({"stage": "fake", "sed": 1}, "config has no key 'sed'; did you mean 'seed'?"),
    ],
)
def test_a_wrong_config_leaves_no_folder(ran: list[Any], tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        runner.run_stage(config, tmp_path / "run")
    assert str(error.value).startswith(message)
    assert not ran
    assert not (tmp_path / "run").exists()


def test_another_config_is_refused_and_every_difference_named(ran: list[Any], tmp_path: Path) -> None:
    runner.run_stage({"stage": "fake", "seed": 0}, tmp_path)
    written = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r'\(seed: 0 -> 1; source: absent -> "a"\)'):
        runner.run_stage({"stage": "fake", "seed": 1, "source": "a"}, tmp_path)
    assert len(ran) == 1
    assert (tmp_path / "config.json").read_text() == written


def test_a_config_that_was_refused_does_not_hold_its_folder(ran: list[Any], tmp_path: Path, monkeypatch) -> None:
    """Some configs are refused only after their folder was made."""

    def refuse(config: Config, workdir: Path) -> None:
        raise UserError("too many devices")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="too many devices"):
        patch.setattr(sys.modules["rlhf_jax.stages.fake"], "run", refuse)
        runner.run_stage({"stage": "fake", "seed": 1}, tmp_path)
    runner.run_stage({"stage": "fake", "seed": 2}, tmp_path)
    with pytest.raises(UserError, match=r"seed: 2 -> 3"):
        runner.run_stage({"stage": "fake", "seed": 3}, tmp_path)


@pytest.mark.parametrize("name", ["pipeline", *tiny.get_config().stages])
def test_a_second_start_of_any_stage_is_refused_before_it_does_anything(name: str, tmp_path: Path) -> None:
    study = to_dict(tiny.get_config())
    with locked(tmp_path):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError, match=f"{tmp_path} is in use by process {os.getpid()} on .* since "):
            runner.run_stage(study if name == "pipeline" else study["stages"][name], tmp_path)
        assert sorted(tmp_path.iterdir()) == before


def test_the_stages_with_a_mesh_run_on_every_host() -> None:
    """A stage on the mesh that ran on one of several hosts alone would wait for the others for ever."""

    def has_mesh(config: type) -> bool:
        hints = typing.get_type_hints(config).values()
        return Mesh in hints or any(dataclasses.is_dataclass(hint) and has_mesh(hint) for hint in hints)

    for name, where in runner.STAGES.items():
        module = importlib.import_module(f"rlhf_jax.stages.{name}")
        assert (where == "mesh") == (has_mesh(module.Config) or name == "pipeline"), name
