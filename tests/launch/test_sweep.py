"""The sweep launcher: which runs a sweep has, and that they are launched once, in turn, whatever becomes of one."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.sweep import Choice, Range, Sweep, combinations, runs
from rlhf_jax.config import parse
from rlhf_jax.errors import UserError
from rlhf_jax.main import read_flags

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("[!_]*.py"))
RATE = Range("optimizer.learning_rate", 1e-5, 1e-3, "log")


def sweep(*axes: Choice | Range, **changes: Any) -> Sweep:
    return Sweep(
        **{"config": "configs/sft.py", "arguments": (), "axes": axes, "draws": 0, "draw_seed": 0, "seeds": (0,)}
        | changes
    )


# Which runs


def test_a_grid_is_every_combination_with_every_seed() -> None:
    grid = sweep(Choice("steps", [1, 2]), Choice("dtype", ["auto"]), seeds=(3, 4))
    assert combinations(grid) == [
        {"steps": 1, "dtype": "auto", "seed": 3},
        {"steps": 1, "dtype": "auto", "seed": 4},
        {"steps": 2, "dtype": "auto", "seed": 3},
        {"steps": 2, "dtype": "auto", "seed": 4},
    ]
    assert combinations(sweep(Choice("steps", [1]), seeds=())) == [{"steps": 1}]
    assert combinations(sweep(seeds=(1, 2))) == [{"seed": 1}, {"seed": 2}]


def test_draws_lie_in_their_ranges_and_stay_when_there_are_more() -> None:
    axes = (RATE, Range("algorithm.gamma", 0.9, 1.0, "linear"), Choice("algorithm.num_ppo_epochs", [1, 2, 4]))
    many = combinations(sweep(*axes, draws=300))
    rates = [values["optimizer.learning_rate"] for values in many]
    assert all(1e-5 <= rate <= 1e-3 and float(f"{rate:.3g}") == rate for rate in rates)
    assert 100 < sum(rate < 1e-4 for rate in rates) < 200, "as many below the geometric mean as above"
    assert all(0.9 <= values["algorithm.gamma"] <= 1.0 for values in many)
    assert {values["algorithm.num_ppo_epochs"] for values in many} == {1, 2, 4}
    assert combinations(sweep(*axes, draws=5)) == many[:5]
    assert combinations(sweep(*axes, draws=5, draw_seed=1)) != many[:5]
    assert [values["optimizer.learning_rate"] for values in combinations(sweep(RATE, draws=300))] == rates


def test_folders_are_named_by_what_varies(tmp_path: Path) -> None:
    found = runs(sweep(Choice("optimizer.learning_rate", [1e-5, 0.1]), Choice("steps", [2])), tmp_path)
    assert list(found) == ["learning_rate_1e-05-steps_2-seed_0", "learning_rate_0.1-steps_2-seed_0"]
    assert found["learning_rate_0.1-steps_2-seed_0"] == [
        "--config=configs/sft.py",
        f"--workdir={tmp_path}/learning_rate_0.1-steps_2-seed_0",
        "--config.optimizer.learning_rate=0.1",
        "--config.steps=2",
        "--config.seed=0",
    ]
    alike = sweep(Choice("stages.sft.steps", [1]), Choice("stages.reward.steps", [2]), config="configs/tiny.py")
    assert list(runs(alike, tmp_path)) == ["stages.sft.steps_1-stages.reward.steps_2-seed_0"]
    drawn_often = sweep(Choice("algorithm.num_ppo_epochs", [1, 2]), draws=20, config="configs/ppo.py")
    assert set(runs(drawn_often, tmp_path)) == {"num_ppo_epochs_1-seed_0", "num_ppo_epochs_2-seed_0"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_sweeps_of_this_project_can_be_launched(path: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    name = path.relative_to(ROOT)
    config, workdir, _ = read_flags(["sweep", f"--config={name}", f"--workdir={tmp_path}"])
    expected = {"kl": 12, "ppo_search": 12, "opt_scaling": 5, "shifts": 3}
    assert len(runs(parse(Sweep, config), workdir)) == expected[path.stem]
    assert f"python -m launch.sweep --config={name} --workdir=runs/" in path.read_text(), (
        "the lab note gives the command"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (sweep(RATE), "config.axes: 'optimizer.learning_rate' is a range, which a grid cannot cover; set config.draws"),
        (sweep(Choice("steps", [])), "config.axes: 'steps' has no values"),
        (sweep(seeds=()), "config.arguments, config.axes and config.seeds are empty; expected something that varies"),
        (sweep(Choice("seed", [1])), "config.axes: 'seed' varies twice (config.seeds is the axis of 'seed')"),
        (sweep(Choice("stps", [1])), "--config.stps=1: config has no key 'stps'; did you mean 'steps'?"),
        (sweep(Choice("model", ["a/b", "a:b"])), "two runs would share the folder W/model_a_b-seed_0: "),
    ],
)
def test_a_sweep_that_cannot_run_is_one_sentence(wrong: Sweep, message: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        runs(wrong, Path("W"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# Launching them

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    axes = ({"key": "packages", "values": (("json", "email"), ("no_such_package",), ("asyncio", "json"))},)
    sweep = {"config": "FOLDER/corpus.py", "arguments": (), "axes": axes, "draws": 0, "draw_seed": 0, "seeds": (0, 1)}
    return ConfigDict(sweep)
"""
CORPUS = """
from ml_collections import ConfigDict
from rlhf_jax.configs import prepare

def get_config():
    config = prepare.documentation(0)
    config.splits = ConfigDict({"train": 8, "validation": 2, "id_test": 2, "ood_test": 2})
    return config
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A sweep over the corpora of some packages, one of which does not exist."""
    (tmp_path / "sweep.py").write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    (tmp_path / "corpus.py").write_text(CORPUS)
    config, workdir = tmp_path / "sweep.py", tmp_path / "runs"
    return [sys.executable, "-m", "launch.sweep", f"--config={config}", f"--workdir={workdir}"]


NAMES = [
    f"packages_{packages}-seed_{seed}"
    for packages in ("_json_email_", "_no_such_package_", "_asyncio_json_")
    for seed in (0, 1)
]


def call(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def launcher(folder: Path, script: str) -> str:
    """A launcher that notes the workdir of each run in `launched` and then does what `script` says."""
    path = folder / "my launcher.sh"
    path.write_text(f'#!/usr/bin/env bash\necho "${{2##*/}}" >>"{folder}/launched"\n{script}\n')
    path.chmod(0o755)
    return shlex.quote(str(path))


def test_real_runs_are_made_in_turn_once_and_the_failed_ones_named(tmp_path: Path, command: list[str]) -> None:
    command = [*command, "--config.seeds=(0,)"]
    first = call(command)
    good, bad, also_good = NAMES[::2]
    assert first.returncode == 1
    assert first.stderr.splitlines()[-1] == f"1 of 3 runs failed: {bad} (status 1)"
    for name, packages in ((good, ["json", "email"]), (also_good, ["asyncio", "json"])):
        folder = tmp_path / "runs" / name
        config = json.loads((folder / "config.json").read_text())
        assert (config["packages"], config["seed"], config["stage"]) == (packages, 0, "prepare")
        assert (folder / "examples.jsonl").read_text().count("\n") == 14
    again = call(command)
    assert again.returncode == 1
    assert [line for line in again.stdout.splitlines() if line.startswith("[")] == [
        f"[1/3] {good}: was launched before",
        f"[2/3] {bad}",
        f"[3/3] {also_good}: was launched before",
    ]


def test_a_launcher_gets_the_runs_that_it_did_not_take_before(tmp_path: Path, command: list[str]) -> None:
    takes = launcher(tmp_path, f'case "$2" in *seed_1) exit $(cat "{tmp_path}/status") ;; esac')
    (tmp_path / "status").write_text("7")
    first = call(command, LAUNCHER=takes)
    failed = ", ".join(f"{name} (status 7)" for name in NAMES[1::2])
    assert (first.returncode, first.stderr) == (1, f"3 of 6 runs failed: {failed}\n")
    (tmp_path / "status").write_text("0")
    assert call(command, LAUNCHER=takes).returncode == 0
    assert (tmp_path / "launched").read_text().split() == NAMES + NAMES[1::2]
    assert call(command, LAUNCHER=takes).returncode == 0
    assert (tmp_path / "launched").read_text().split() == NAMES + NAMES[1::2]
    changed = [*command, f"--config.config={ROOT}/configs/prepare.py"]
    assert call(changed, LAUNCHER=takes).returncode == 0
    assert (tmp_path / "launched").read_text().split() == NAMES + NAMES[1::2] + NAMES, "another run in the same folder"


def test_sigterm_is_passed_on_and_stops_the_sweep(tmp_path: Path, command: list[str]) -> None:
    waits = launcher(
        tmp_path, f'trap "exit 143" TERM; touch "{tmp_path}/started"; for _ in {{1..6000}}; do sleep 0.01; done'
    )
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "LAUNCHER": waits}, stderr=subprocess.PIPE)
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.decode()) == (143, f"stopped in {NAMES[0]}; run the same command to go on\n")
    assert (tmp_path / "launched").read_text().split() == NAMES[:1]
