"""The study's rows: their programs are lowered for their shapes and meshes, the tiny ones run whole on made-up data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax.configs import rows
from tests import study_files
from tests.chat_server import serving

ROOT = Path(__file__).parents[1]
ON_EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
NETWORKS = {  # the stages that run a network, and their programs
    "sft": "update evaluate prefill decode",
    "reward": "update score",
    "ppo": "prefill decode join score update",
    "best_of_n": "prefill decode score",
    "sample_sft": "prefill decode score",
    "sample_ppo": "prefill decode score",
    "sample_pool": "prefill decode score",
}


def call(module: str, *arguments: str, where: Path = ROOT, **variables: str) -> str:
    """What a module prints as a program in the folder `where`. It has to end well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **variables}
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def lowered(*configs: str) -> dict[tuple[str, str], str]:
    """The programs of each config's stages, on eight devices."""
    lines = [line.split() for line in call("tests.lower_configs", *configs, **ON_EIGHT).splitlines()]
    return {(config, stage): " ".join(programs) for config, stage, *programs in lines if config in configs}


@pytest.mark.soak
@pytest.mark.parametrize("preset", [name for name in rows.PRESETS if name != rows.TINY])
def test_the_programs_of_every_row_are_lowered(preset):
    row = f"configs/study.py:tldr,{preset}"
    assert lowered(row) == {(row, stage): programs for stage, programs in NETWORKS.items()}
    row = f"configs/study.py:alpaca,{preset}"
    of_alpaca = {**NETWORKS, "sft": "update evaluate"}
    del of_alpaca["sample_pool"]
    assert lowered(row) == {(row, stage): programs for stage, programs in of_alpaca.items()}


def report(folder: Path, name: str = "report") -> dict:
    return json.loads((folder / name / "report.json").read_text())["models"]


@pytest.mark.soak
def test_the_tiny_row_of_tldr_runs_whole_and_its_kl_sweep_after_it(tmp_path):
    """With a language model as the judge, which is asked about posts and about news. The sweep is judged offline."""
    flags = study_files.write_tldr(tmp_path / "data")
    row = "runs/tldr/tiny"
    command = ["rlhf_jax.main", f"--config={ROOT}/configs/study.py:tldr,tiny", f"--workdir={row}", *flags]
    with serving() as server:
        endpoint = {"OPENAI_BASE_URL": server.url, "OPENAI_MODEL": "judge-1", "OPENAI_API_KEY": "none"}
        call(*command, where=tmp_path, **endpoint)
        asked = [request["messages"][1]["content"] for request in server.requests]
    assert {"forum post" in question for question in asked} == {True, False}
    assert all(("ARTICLE:" in question) == ("news article" in question) for question in asked)
    models = report(tmp_path / row)
    assert list(models) == ["sft", "ppo", "bon"]
    for model in models:
        assert all("mean" in models[model]["win_rate"][split] for split in ("id_test", "ood_test"))
        assert all("mean" in models[model]["per_input_ead"][split] for split in ("id_test", "ood_test"))
    sweep = f"{row}/kl_sweep"
    call("rlhf_jax.main", f"--config={ROOT}/configs/kl_sweep.py:tiny,offline", f"--workdir={sweep}", where=tmp_path)
    models = report(tmp_path / sweep)
    assert list(models) == ["sft", *(f"beta_{value}" for value in ("0_01", "0_025", "0_05", "0_1", "0_2"))]
    assert all("mean" in models[model]["kl"]["k1"] for model in models)
