"""The package as it is installed: a wheel, used from a folder that is no clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OWN = """
from ml_collections import ConfigDict
from rlhf_jax.configs import prepare

def get_config():
    config = prepare.documentation(0)
    config.packages = ("json", "email")
    config.splits = ConfigDict({"train": 4, "validation": 1, "id_test": 1, "ood_test": 1})
    return config
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}"]
    source = folder / "source"  # a build leaves its own folders beside the code
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".*", "build", "runs", "*.egg-info"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True)
    [wheel] = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def ran(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The console command in `folder`, by the installed package."""
    command = "from rlhf_jax import main; assert 'site' in main.__file__; main.command()"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    words = [sys.executable, "-P", "-c", command, *arguments]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_shipped_experiment_is_in_the_wheel(site: Path, tmp_path: Path) -> None:
    """By the name that `--help` gives, and with what it imports."""
    helped = ran(site, tmp_path, "--help").stdout.partition("Experiments")[2]
    names = [line.split()[0] for line in helped.splitlines() if line.startswith("  ")]
    assert {"quickstart", "tiny", "ppo", "paper/ppo", "judge_llm"} <= set(names)
    for name in ("quickstart", "paper/ppo"):
        result = ran(site, tmp_path, f"--config={name}", "--workdir=out", "--config.no_such_key=1")
        assert result.stderr.startswith("error: --config.no_such_key=1: config has no key"), result.stderr


def test_ones_own_config_builds_on_the_shipped_ones(site: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    result = ran(site, tmp_path, "--config", "mine.py", "--workdir", "out")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "examples.jsonl").read_text().count("\n") == 7


def test_the_metadata_is_what_an_index_shows(site: Path) -> None:
    [info] = site.glob("rlhf_jax-*.dist-info")
    about = message_from_string((info / "METADATA").read_text())
    assert about["Description-Content-Type"] == "text/markdown" and "rlhf_jax" in about.get_payload()
    assert {"tpu", "cuda", "sbert", "onnx", "test"} <= set(about.get_all("Provides-Extra"))
    assert "rlhf-jax = rlhf_jax.main:command" in (info / "entry_points.txt").read_text()
    assert (site / "rlhf_jax" / "py.typed").is_file()
