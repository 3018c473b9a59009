"""Runs that are killed, started twice or out of disk space end like those that are not."""

import collections
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_jax.lock import LOCK
from tests.kills import Moment, assert_identical, kill

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "rlhf_jax.main"]
# In the order of the study. Each is a kill of every sequence.
MOMENTS = [
    Moment("prepare", "begin"),
    Moment("initialize", "folder"),
    *(Moment("sft", phase) for phase in ("compile", "step", "checkpoint")),
    *(Moment("sample_pairs", phase) for phase in ("compile", "sample")),
    Moment("preferences", "begin"),
    *(Moment("reward", phase) for phase in ("compile", "step", "checkpoint")),
    *(Moment("ppo", phase) for phase in ("compile", "step", "checkpoint")),
    Moment("best_of_n", "sample"),
    Moment("judge", "begin"),
    Moment("tokenise", "folder"),
    Moment("export_ppo", "folder"),
    Moment("export_reward", "folder"),
    Moment("report", "begin"),
]


def command(folder: Path, *arguments: str) -> list[str]:
    return [*COMMAND, "--config=tests/killed_study.py", f"--workdir={folder}", *arguments]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1", "JAX_LOG_COMPILES": "1", **variables}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    ran = subprocess.run(command(folder), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.soak
@pytest.mark.parametrize(
    ("sequence", "moments"),
    [*((number, MOMENTS) for number in range(5)), (5, MOMENTS[3::7])],
    ids=["0", "1", "2", "3", "4", "few"],
)
def test_a_study_that_was_killed_ends_like_one_that_was_not(
    whole: Path, tmp_path: Path, sequence: int, moments: list[Moment]
) -> None:
    """Twenty kills in a row, one for each of `MOMENTS`, at random times within them. Five sequences are a hundred.

    CI has the sequence of a few.
    """
    rng, folder, log = random.Random(sequence), tmp_path / f"study {sequence}", tmp_path / "log"
    missed = collections.Counter()
    for number, moment in enumerate(moments):
        for attempt in itertools.count():
            # What is to be killed while it compiles must have nothing compiled yet.
            cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / f"{number}")} if moment.phase == "compile" else {}
            with log.open("w") as said:
                streams = {"stdout": said, "stderr": subprocess.STDOUT}
                process = subprocess.Popen(command(folder), cwd=ROOT, env=environment(**cache), **streams)
            try:
                hit = kill([process], log, folder, moment, rng)
            finally:
                process.kill()
            if hit:
                break
            missed[moment] += 1  # the stage had ended: it is to begin anew
            assert attempt < 20, moment
            shutil.rmtree(folder / moment.stage)
    print(f"sequence {sequence}: {len(moments)} kills; stages that ended before theirs: {dict(missed)}")
    last = subprocess.run(command(folder), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert_identical(folder, whole)


@pytest.mark.soak
def test_of_two_starts_at_once_one_runs(whole: Path, tmp_path: Path) -> None:
    """Every stage of the study. The first start is stopped while it holds the folder, so that they do meet."""
    study = shutil.copytree(whole, tmp_path / "study")
    for stage in json.loads((study / "config.json").read_text())["stages"]:
        shutil.rmtree(study / stage)
        words = [sys.executable, "-m", "tests.one_stage", str(study), stage]
        first = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            while not (study / stage / LOCK).exists() or not (study / stage / LOCK).read_text():
                assert first.poll() is None, first.communicate()[0].decode()
                time.sleep(0.001)
            first.send_signal(signal.SIGSTOP)
            second = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True)
            first.send_signal(signal.SIGCONT)
            said, _ = first.communicate()
        finally:
            first.kill()
        assert (first.returncode, second.returncode) == (0, 1), (stage, said.decode(), second.stderr)
        assert f"error: {study / stage} is in use by process {first.pid} on " in second.stderr
    assert_identical(study, whole)


def can_mount() -> bool:
    return shutil.which("unshare") is not None and not subprocess.run(["unshare", "-Urm", "true"]).returncode


@pytest.mark.soak
@pytest.mark.skipif(not can_mount(), reason="a small disk is mounted in a name space of its own, which is not allowed")
def test_a_full_disk_is_a_sentence_and_the_study_goes_on(whole: Path, tmp_path: Path) -> None:
    """On a disk that is too small for everything, and grows each time that the study has said so."""
    words = [sys.executable, "-m", "tests.full_disk", str(tmp_path / "copy"), str(tmp_path / "said")]
    ran = subprocess.run(["unshare", "-Urm", *words], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert_identical(tmp_path / "copy", whole)
    said = (tmp_path / "said").read_text()
    kinds = ["prepare/examples.jsonl", "initialize/model", "checkpoint of step", "metrics.jsonl|events|timing.jsonl"]
    kinds += ["samples.jsonl", "preferences.jsonl", "judgements.jsonl|comparisons.jsonl", "tokenise/tokens"]
    kinds += ["export_ppo/model", "report/", "config.json|inputs.json|.lock"]
    assert [kind for kind in kinds if not re.search(kind, said)] == [], said
