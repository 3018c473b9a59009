"""Kills a run in a phase of one of its stages, by what it has on disk, and compares how studies ended."""

import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from rlhf_jax import files
from rlhf_jax.lock import LOCK

TIMEOUT = 300.0  # seconds until the phase begins


class Moment(NamedTuple):
    """When a run is killed.

    Attributes:
      stage: the name of its folder.
      phase: a key of `PHASES`.
    """

    stage: str
    phase: str


class Look(NamedTuple):
    """What is known when a process has begun a stage.

    Attributes:
      folder: the stage's.
      since: when that was, as files have it in seconds.
      log: what the process has printed since.
    """

    folder: Path
    since: float
    log: str


def _newer(look: Look, pattern: str) -> bool:
    """Whether something that fits was written since."""
    try:
        return any(path.stat().st_mtime >= look.since for path in look.folder.glob(pattern))
    except FileNotFoundError:  # it has taken its place meanwhile
        return True


def _steps(look: Look) -> bool:
    return _newer(look, "metrics.jsonl") and (look.folder / "metrics.jsonl").stat().st_size > 0


# Whether a phase has begun, and the seconds within it that a kill may wait.
PHASES: dict[str, tuple[Callable[[Look], bool], float]] = {
    "begin": (lambda look: True, 0.2),
    "compile": (lambda look: "Compiling " in look.log, 0.3),
    "step": (_steps, 0.3),
    "sample": (lambda look: _newer(look, "samples.jsonl"), 0.02),
    "checkpoint": (lambda look: _newer(look, "checkpoints/*.orbax-checkpoint-tmp"), 0.03),
    "folder": (lambda look: _newer(look, ".partial/model") or _newer(look, ".partial/tokens"), 0.02),
}


def kill(
    processes: Sequence[subprocess.Popen], log: Path, study: Path, moment: Moment, rng: random.Random, victim: int = 0
) -> bool:
    """Kills a process at a random time within a phase.

    Args:
      processes: of one run. The first one holds the locks.
      log: what they print.
      study: the run's folder.
      moment: the phase, of a stage that is not finished.
      rng: draws the time.
      victim: the index of the process.

    Returns:
      True if the stage was still running.
    """
    begun, wait = PHASES[moment.phase]
    folder, mark, since = study / moment.stage, None, 0.0
    deadline = time.monotonic() + TIMEOUT
    while True:
        if mark is None and _is_held(folder / LOCK, processes[0].pid):
            mark, since = log.stat().st_size, time.time() - 0.05
        if mark is not None and begun(Look(folder, since, log.read_text()[mark:])):
            break
        if (folder / "finished").exists():
            break
        assert processes[0].poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.001)
    time.sleep(rng.uniform(0, wait))
    processes[victim].send_signal(signal.SIGKILL)
    processes[victim].wait()
    assert processes[victim].returncode == -signal.SIGKILL, log.read_text()
    return not (folder / "finished").exists()


def _is_held(lock: Path, process: int) -> bool:
    try:
        return lock.read_text().startswith(f"process {process} ")
    except FileNotFoundError:
        return False


TRAINED = ("sft", "reward", "ppo")
CLOCKS = r"/checkpoints/|events|timing\.jsonl|starts\.jsonl"


def contents(study: Path) -> dict[str, bytes]:
    """Every file that holds no clock reading and is no checkpoint's, by its path."""
    found = {path.relative_to(study).as_posix(): path.read_bytes() for path in files.visible(study)}
    return {name: text for name, text in found.items() if not re.search(CLOCKS, name)}


def assert_identical(found: Path, expected: Path) -> None:
    """Bit for bit: the state of every training run, and every file that is not of a clock."""
    for stage in TRAINED:
        ours, theirs = arrays(found / stage), arrays(expected / stage)
        assert sorted(ours) == sorted(theirs)
        assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == [], stage
    ours, theirs = contents(found), contents(expected)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert not [path for path in found.rglob("*") if path.name in (files.PARTIAL, LOCK)]


def arrays(run: Path) -> dict[str, np.ndarray]:
    """Every array of a training run's last checkpoint, by item and path."""
    steps = [path for path in (run / "checkpoints").iterdir() if path.name.isdigit()]
    last = max(steps, key=lambda path: int(path.name))
    found = {"step": np.array(int(last.name))}
    for item in ("top", "rest"):
        stored = ocp.StandardCheckpointHandler().metadata(last / item).tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        restored = ocp.PyTreeCheckpointer().restore(last / item, restore_args=as_numpy)
        found |= {f"{item}{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree.leaves_with_path(restored)}
    return found
