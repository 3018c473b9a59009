"""Processes with CPU devices of their own: the stages that run a network on a mesh, on one host or on several."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from rlhf_jax.data.records import Samples, read
from rlhf_jax.training.checkpoint import load_top
from tests import tiny

ROOT = Path(__file__).parents[1]
TRAINED = {"sft": 3e-4, "reward": 3e-4, "ppo": 1e-4}  # learning rates, of configs/common.py


def start(devices: int, *arguments: str, log: Path | None = None, **variables: str) -> subprocess.Popen:
    """Python in a process that has so many CPU devices. What it prints goes into pipes, or all into one file."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        **variables,
    }
    words = [sys.executable, *arguments]
    if log is None:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, cwd=ROOT, env=environment, **pipes)
    with log.open("w") as said:
        return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)


def start_all(
    devices: int, *commands: tuple[str, ...], logs: Sequence[Path | None] | None = None, **variables: str
) -> list[subprocess.Popen]:
    """One process a command, of so many devices each, that find one another. Each prints as `start` has it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    logs = logs or [None] * len(commands)
    together = {"JAX_COORDINATOR_ADDRESS": address, **variables}
    return [
        start(devices, *words, log=log, **together, JAX_PROCESS_ID=str(i))
        for i, (words, log) in enumerate(zip(commands, logs, strict=True))
    ]


def ended(*processes: subprocess.Popen) -> list[subprocess.CompletedProcess]:
    """The processes as they ended. None lives on when a test fails."""
    try:
        said = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *pipes)
        for process, pipes in zip(processes, said, strict=True)
    ]


def with_devices(devices: int, *arguments: str) -> subprocess.CompletedProcess:
    """Runs Python in a process that has so many CPU devices."""
    return ended(start(devices, *arguments))[0]


def command(folder: Path, mesh: str, *arguments: str) -> tuple[str, ...]:
    """The words that run `mesh_study.py`."""
    return ("-m", "rlhf_jax.main", f"--config=tests/mesh_study.py:{mesh}", f"--workdir={folder}", *arguments)


def study(folder: Path, mesh: str, *arguments: str, devices: int = 8, hosts: int = 1) -> Path:
    """Runs `mesh_study.py` on so many devices, which belong to one process or in equal shares to several."""
    words = command(folder, mesh, f"--hosts={hosts}", *arguments)
    for ran in ended(*start_all(devices // hosts, *[words] * hosts)):
        assert ran.returncode == 0, ran.stderr
    return folder


def assert_same(found: Path, expected: Path) -> None:
    """Metrics and parameters to rounding, samples exactly: their vocabulary is small and all is float32.

    Adam makes a step of the size of the learning rate out of any gradient, so parameters are compared in learning
    rates. Where a gradient is all rounding, so is the step's direction.
    """
    for stage, rate in TRAINED.items():
        for ours, theirs in zip(tiny.logged(found / stage), tiny.logged(expected / stage), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5), stage
        ours, theirs = (load_top(folder / stage)[0] for folder in (found, expected))
        apart = jax.tree.map(lambda a, b, rate=rate: np.abs(np.asarray(a) - np.asarray(b)) / rate, ours, theirs)
        for path, leaf in jax.tree.leaves_with_path(apart):
            assert np.quantile(leaf, 0.99) < 0.01 and leaf.max() < 1, (stage, path, np.quantile(leaf, 0.99), leaf.max())
    for stage in ("sample_pairs", "best_of_n"):
        ours, theirs = (read(folder / stage / "samples.jsonl", Samples) for folder in (found, expected))
        assert {r.id: r.outputs for r in ours} == {r.id: r.outputs for r in theirs}
        scores = {r.id: r.rewards for r in ours}
        assert all(scores[r.id] is None or scores[r.id] == pytest.approx(r.rewards, abs=1e-4) for r in theirs)
