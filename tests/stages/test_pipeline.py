"""A pipeline checks every stage first, runs them in their order in folders of their own, and resumes."""

import dataclasses
import functools
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ml_collections import ConfigDict, FieldReference

from rlhf_jax.config import to_dict
from rlhf_jax.configs import tiny
from rlhf_jax.errors import UserError
from rlhf_jax.stages import runner


@dataclasses.dataclass(frozen=True)
class Config:
    OUTPUTS: ClassVar[tuple[str, ...]] = ("text",)

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
        if config.text == "wrong":
            (workdir / "log").touch()
            raise UserError("it fails")
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


def test_a_stage_that_failed_may_be_changed_and_finished_ones_stay(ran: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it fails"):
        runner.run_stage(study(**{"stages.again.text": "wrong"}), tmp_path)
    assert ran == ["write", "read"]
    with pytest.raises(UserError, match=r'\(stages.write.text: "w" -> "v"\)'):
        runner.run_stage(study(**{"stages.write.text": "v"}), tmp_path)
    runner.run_stage(study(), tmp_path)
    assert ran == ["write", "read", "again"]
    assert (tmp_path / "again" / "text").read_text() == "arw"


# Keys of the tiny study's late stages, a value that cannot be, and what is said of it.
WRONG = [
    ({"stages.ppo.microbatch": 3}, "config.stages.ppo: config.microbatch is 3, which does not divide"),
    ({"stages.ppo.algorithm.num_mini_batches": 3}, "config.stages.ppo: config.algorithm.num_mini_batches is 3, which"),
    ({"stages.ppo.mesh.data": 64}, "config.stages.ppo: the mesh is data 64 x fsdp 1 x tensor 1, which does not fit"),
    (
        {"stages.reward.selection.metric": "loss"},
        "config.stages.reward: config.selection.metric is 'loss', expected ''",
    ),
    ({"stages.best_of_n.sampling.mesh.tensor": 64}, "config.stages.best_of_n: the mesh is data 1 x fsdp 1 x tensor 64"),
    ({"stages.best_of_n.sampling.reward": ""}, "config.stages.best_of_n: config.sampling.reward is empty"),
    ({"stages.best_of_n.sampling.policy": "{workdir}/sfd"}, "config.stages.best_of_n.sampling.policy is TMP/sfd: "),
    ({"stages.sample_ppo.sampling.policy": "{workdir}/judge"}, "policy is TMP/judge: TMP/judge/checkpoints holds no"),
    ({"stages.ppo.reward": "{workdir}/prepare"}, "ppo.reward is TMP/prepare, which prepare does not write; it writes"),
    ({"stages.ppo.model": "nowhere/model.gguf"}, "config.stages.ppo.model is nowhere/model.gguf: The model"),
    ({"stages.judge.samples.ppo": "{workdir}/sample_ppo/sample.jsonl"}, "sample_ppo does not write; it writes samples"),
    ({"stages.judge.samples.ppo": "none.jsonl"}, "judge.samples.ppo is none.jsonl: there is no such file or folder"),
    ({"stages.sft.evaluate_splits": ("validatoin",)}, "TMP/prepare/examples.jsonl, of which the split 'validatoin' is"),
    ({"stages.best_of_n.sampling.prompts.ood": 4}, "of which the split 'ood' is read; prepare writes "),
    ({"stages.judge.baseline": "sfd"}, 'config.stages.judge: baseline is "sfd", expected one of'),
    ({"stages.judge.gold.encoder": "none/at/all"}, "config.stages.judge: The model 'none/at/all' is not there"),
    ({"stages.evaluate.encoder": "openai:small"}, "config.stages.evaluate: The environment has no OPENAI_API_KEY"),
    (
        {"stages.evaluate.pools.bonn": "x"},
        "config.stages.evaluate: config.pools has 'bonn', expected some of bon, ppo, sft",
    ),
    ({"stages.reward_vs_kl.policies.ppo": "{workdir}/pp"}, "reward_vs_kl.policies.ppo is TMP/pp: "),
    ({"stages.report.evaluation": "evaluat/evaluation.json"}, "report.evaluation is TMP/evaluat/evaluation.json: "),
    ({"stages.report.samples.ppo": "sample_ppo/s.jsonl"}, "report.samples.ppo is TMP/sample_ppo/s.jsonl, which sample"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[next(iter(changes)) for changes, _ in WRONG])
def test_what_a_late_stage_lacks_is_found_before_the_first_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = tiny.get_config()
    with config.unlocked():
        for key, value in changes.items():
            *sections, last = key.split(".")
            functools.reduce(lambda section, name: section[name], sections, config)[last] = value
    with pytest.raises(UserError) as error:
        runner.run_stage(to_dict(config), tmp_path)
    assert message.replace("TMP", str(tmp_path)) in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "inputs.json"}, "and nothing was begun"


def test_a_stage_folder_of_another_study_is_refused(ran: list[str], tmp_path: Path) -> None:
    runner.run_stage(study(), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"write holds results of another config or input \(seed: 0 -> 1\)"):
        runner.run_stage(study(seed=1), tmp_path)
