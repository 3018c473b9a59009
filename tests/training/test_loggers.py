"""Weights and Biases gets what the files get, offline, and goes on where the run does. Events are in test_metrics."""

import json
import struct
import sys
from pathlib import Path

import jax.numpy as jnp
import optax
import pytest
from wandb.proto.wandb_internal_pb2 import Record

from rlhf_jax.errors import UserError
from rlhf_jax.training.loggers import Logging
from rlhf_jax.training.loop import FINITE, Loop
from rlhf_jax.training.state import State
from tests import tiny

BLOCK = 32768  # bytes of the log format of LevelDB, which wandb keeps a run in after a header of seven


def records(path: Path) -> list[Record]:
    """Every record of a run's `.wandb` file, put together from its fragments."""
    data, found, at, parts = path.read_bytes(), [], 7, b""
    while at < len(data):
        if BLOCK - at % BLOCK < 7:  # too little for a fragment's header
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            found.append(Record.FromString(parts))
            parts = b""
    return found


def offline_runs(workdir: Path) -> list[tuple[str, dict[int, dict[str, float]]]]:
    """The id, and the scalars by step, of each of a workdir's offline runs in order of time."""
    found = []
    for path in sorted((workdir / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        of = records(path)
        (run,) = (record.run for record in of if record.WhichOneof("record_type") == "run")
        rows = {
            record.history.step.num: {
                ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
                if not item.nested_key[0].startswith("_")
            }
            for record in of
            if record.WhichOneof("record_type") == "history"
        }
        found.append((run.run_id, rows))
    return found


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb_home"))


def train(workdir: Path, steps: int, crash_at: int = 0) -> None:
    """Checkpoints at every second step."""
    transform = optax.sgd(1.0)
    with Loop(workdir, "test", steps, 2, logging=Logging(wandb_project="study")) as loop:
        state = loop.restore(State.create({"w": jnp.zeros(2)}, transform), "oak")
        for step in loop.steps():
            state = state.advanced(1)
            loop.log(step, {**dict.fromkeys(FINITE, 1 / step), "eval/id/score": float("nan")}, {"seconds": 0.5}, 1)
            if step == crash_at:
                raise ZeroDivisionError
            loop.save_if_due(step, state, {"trunk": "oak"})


def written(workdir: Path) -> dict[int, dict[str, float]]:
    """What the files have, by step, without what is not finite."""
    rows: dict[int, dict[str, float]] = {}
    for line in (*tiny.logged(workdir), *tiny.logged(workdir, "timing")):
        values = {name: value for name, value in line.items() if name not in ("step", "time") and value is not None}
        rows.setdefault(line["step"], {}).update(values)
    return rows


def test_an_offline_run_has_what_the_files_have(tmp_path, offline):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text('{"stage": "sft", "seed": 3}')
    train(workdir, 5)
    ((_, rows),) = offline_runs(workdir)
    assert rows == written(workdir)
    assert list(rows) == [1, 2, 3, 4, 5] and {*FINITE, "seconds", "goodput", "programs"} <= set(rows[5])
    (path,) = (workdir / "wandb").glob("offline-run-*/*.wandb")
    (run,) = (record.run for record in records(path) if record.WhichOneof("record_type") == "run")
    config = {item.key: item.value_json for item in run.config.update}
    assert (run.project, run.display_name) == ("study", f"{tmp_path.name}/run")
    assert (config["stage"], config["seed"]) == ('"sft"', "3")


def test_a_run_that_goes_on_is_the_same_run(tmp_path, offline):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, 7, crash_at=5)
    lost = written(tmp_path)[5]
    train(tmp_path, 7)
    (first, before), (second, after) = offline_runs(tmp_path)
    assert first == second == (tmp_path / "wandb_id").read_text().strip()
    assert (list(before), list(after)) == ([1, 2, 3, 4, 5], [5, 6, 7])
    assert {**before, **after} == written(tmp_path)
    assert before[5] == lost and before[5]["loss"] == after[5]["loss"]


def test_a_run_that_nobody_watches_has_no_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with Loop(tmp_path, "test", 1, 1):
        pass
    assert not list(tmp_path.glob("wandb*"))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    message = r"wandb_project is 'study' and wandb is not installed; pip install -e '\.\[wandb\]' brings it"
    with pytest.raises(UserError, match=message):
        Logging(wandb_project="study").check()


def test_a_project_that_wandb_refuses_is_a_sentence(tmp_path, offline):
    with pytest.raises(UserError, match="config.logging.wandb_project is 'a/b' and wandb says: Invalid project name"):
        Loop(tmp_path, "test", 1, 1, logging=Logging(wandb_project="a/b")).__enter__()
