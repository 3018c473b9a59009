"""The command line: what it reads, and one sentence without a traceback for what it cannot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax import main
from rlhf_jax.errors import UserError

CONFIG = """
from ml_collections import ConfigDict

def get_config(size="small"):
    config = ConfigDict({"stage": "STAGE", "title": size, "seed": 0, "optimizer": {"learning_rate": 1.0, "clip": 1.0}})
    config.stages = ConfigDict(sort_keys=False)
    config.stages.write = {"stage": "prepare"}
    config.stages.again = {"stage": "prepare"}
    return config
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "study.py"
    path.write_text(CONFIG)
    return path


def test_reads_the_config_its_argument_and_overrides(config_file: Path) -> None:
    words = ["--workdir", "runs/x", "--config.optimizer.clip=2", "--config.seed", "4", "--hosts=2"]
    config, workdir, processes = main.read_flags(["main", f"--config={config_file}:large", *words])
    assert processes == 2
    assert workdir == Path("runs/x")
    assert (config["title"], config["seed"], config["optimizer"]) == ("large", 4, {"clip": 2.0, "learning_rate": 1.0})
    assert list(config["stages"]) == ["write", "again"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--workdir=x", "--config is missing"),
        ("--config=FILE", "--workdir is missing"),
        (
            "--config=FILE --workdir=gs://bucket/run",
            "--workdir is gs://bucket/run, expected a folder; mount the bucket",
        ),
        ("--config=none.py --workdir=x", "--config names none.py, which is neither a file nor a shipped experi"),
        ("--config=FILE --workdir=x --config.sed=1", "--config.sed=1: config has no key 'sed'; did you mean 'seed'?"),
        ("--config=FILE --workdir=x --config.seed=a", "flag --config.seed=a: invalid literal for int()"),
        ("--config=FILE --workdir=x --wrkdir=y", "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
        ("--config=FILE --workdir=x seed=3", "unexpected argument 'seed=3'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(config_file: Path, arguments: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        main.read_flags(["main", *arguments.replace("FILE", str(config_file)).split()])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_evaluation_leaves_accelerators_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that what follows is undone after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    main.prepare_process("sft")
    assert "JAX_PLATFORMS" not in os.environ
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == f"{tmp_path}/rlhf_jax/xla"
    main.prepare_process("judge")
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    main.prepare_process("report")
    assert os.environ["JAX_PLATFORMS"] == "cuda"


@pytest.mark.parametrize(("error", "status"), [(UserError("the file is not there"), 1), (KeyboardInterrupt(), 130)])
def test_exit_statuses(
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
) -> None:
    def run_stage(config: object, workdir: Path) -> None:
        raise error

    monkeypatch.setattr(main, "run_stage", run_stage)
    monkeypatch.setattr(main, "prepare_process", lambda stage: None)
    assert main.main(["main", f"--config={config_file}", "--workdir=x"]) == status
    said = capsys.readouterr().err
    assert said == ("error: the file is not there\n" if status == 1 else "stopped; run the same command to go on\n")


def test_the_program_ends_with_a_sentence_and_status_1(config_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rlhf_jax.main", f"--config={config_file}", f"--workdir={tmp_path / 'run'}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert result.returncode == 1
    assert result.stderr.startswith("error: config.stage is 'STAGE'; expected one of prepare, ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
