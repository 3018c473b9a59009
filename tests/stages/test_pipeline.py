"""A pipeline checks every stage first, runs them in their order in folders of their own, and resumes."""

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict, FieldReference

from rlhf_jax.config import to_dict
from rlhf_jax.errors import UserError
from rlhf_jax.stages import runner


@dataclasses.dataclass(frozen=True)
class Config:
    stage: str
    text: str
    seed: int
    inputs: tuple[str, ...] = ()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders in which the stage `fake` did work: it writes its text and its inputs' texts, unless it has done so."""
    worked: list[str] = []

    def run(config: Config, workdir: Path) -> None:
        output = workdir / "text"
        if not output.exists():
            output.write_text(config.text + "".join(Path(path).read_text() for path in config.inputs))
            worked.append(workdir.name)

    module = types.ModuleType("rlhf_jax.stages.fake")
    module.Config, module.run = Config, run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(runner.STAGES, "fake", "main")
    return worked


def study(**changes: Any) -> dict[str, Any]:
    seed = FieldReference(0)
    config = ConfigDict({"stage": "pipeline", "title": "A study", "seed": seed})
    config.stages = ConfigDict(sort_keys=False)
    config.stages["write"] = {"stage": "fake", "text": "w", "seed": seed}
    config.stages["deep/read"] = {"stage": "fake", "text": "r", "seed": seed, "inputs": ("{workdir}/write/text",)}
    config.stages["again"] = {"stage": "fake", "text": "a", "seed": seed, "inputs": ("{workdir}/deep/read/text",)}
    for path, value in changes.items():
        config.update_from_flattened_dict({path: value})
    return to_dict(config)


def test_what_a_stage_itself_refuses_is_found_before_the_first_one_runs(
    ran: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def check(config: Config) -> None:
        if config.text == "a":
            raise UserError("config.text is a, expected another")

    monkeypatch.setattr(sys.modules["rlhf_jax.stages.fake"], "check", check, raising=False)
    with pytest.raises(UserError, match=r"^config.stages.again: config.text is a"):
        runner.run_stage(study(), tmp_path)
    assert ran == []
    outer = {"stage": "pipeline", "title": "", "seed": 0, "stages": {"inner": study()}}
    with pytest.raises(UserError, match=r"^config.stages.inner.stages.again: config.text is a"):
        runner.check(outer, tmp_path)


def test_stages_run_in_order_and_read_what_earlier_ones_wrote(
    ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.run_stage(study(), tmp_path)
    assert ran == ["write", "read", "again"]
    assert (tmp_path / "again" / "text").read_text() == "arw"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["[1/3] write", "[2/3] deep/read", "[3/3] again"]
    assert lines[3].startswith(f"all 3 stages are complete in {tmp_path}")


def test_running_again_does_only_what_is_missing(ran: list[str], tmp_path: Path) -> None:
    runner.run_stage(study(), tmp_path)
    (tmp_path / "again" / "text").unlink()
    ran.clear()
    runner.run_stage(study(), tmp_path)
    assert ran == ["again"]


def test_a_mistake_in_the_last_stage_is_found_before_the_first_runs(ran: list[str], tmp_path: Path) -> None:
    config = study()
    config["stages"]["again"]["txet"] = "a"
    with pytest.raises(UserError, match=r"config\.stages\.again has no key 'txet'; did you mean 'text'\?"):
        runner.run_stage(config, tmp_path)
    assert not ran
    config = study()
    config["stages"]["again"]["stage"] = "pipelin"
    with pytest.raises(UserError, match=r"config\.stages\.again\.stage is 'pipelin'; did you mean 'pipeline'\?"):
        runner.run_stage(config, tmp_path / "other")
    assert not ran


def test_a_stage_folder_of_another_study_is_refused(ran: list[str], tmp_path: Path) -> None:
    runner.run_stage(study(), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"write holds results of another config or input \(seed: 0 -> 1\)"):
        runner.run_stage(study(seed=1), tmp_path)
