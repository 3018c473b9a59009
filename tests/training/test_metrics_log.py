"""Metrics files: valid JSON at full precision, the same bytes after a resume, events cut back with them."""

import io
import json
import resource
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from rlhf_jax.errors import UserError
from rlhf_jax.training import metrics_log
from rlhf_jax.training.metrics_log import MetricsWriter, Progress
from tests import tiny


def events(workdir: Path) -> list[tuple[int, str, float]]:
    """(step, name, value) of every scalar in a folder's event files, read record by record from the format itself."""
    found = []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def write_steps(workdir: Path, resume_step: int | None, steps: range) -> None:
    with MetricsWriter(workdir, resume_step) as writer:
        for step in steps:
            writer.write(step, {"loss": np.float32(1 / (step + 1)), "eval/id/loss": jnp.float32(step), "count": step})
            writer.timing(step, {"seconds": 0.5})


def test_a_line_is_sorted_and_exact(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, None) as writer:
        writer.write(jnp.int32(3), {"z": np.float32(0.1), "a": jnp.bfloat16(1.5), "b": 1e-30, "m": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 3, "a": 1.5, "b": 1e-30, "m": 2.0, "z": 0.10000000149011612}\n'
    )


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, None) as writer:
        writer.write(1, {"loss": float("nan"), "norm": jnp.inf, "ok": 1.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "norm": None, "ok": 1.0}
    assert events(tmp_path) == [(1, "ok", 1.0)]


@pytest.mark.parametrize("size", [50, 200, 700])
def test_a_full_disk_is_a_sentence_and_the_run_goes_on(tmp_path: Path, size: int) -> None:
    """Whichever of its files is too large first: none may be larger than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(UserError, match=rf"{tmp_path}/\S+ cannot be written: File too large; .* bytes are free there"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            write_steps(tmp_path, None, range(1, 9))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    lines = (tmp_path / "metrics.jsonl").read_text().count("\n") if size > 50 else 0
    write_steps(tmp_path, lines, range(lines + 1, 9))
    (tmp_path / "whole").mkdir()
    write_steps(tmp_path / "whole", None, range(1, 9))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_killed_and_resumed_writes_the_same_bytes_and_events(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    write_steps(whole, None, range(1, 9))
    write_steps(killed, None, range(1, 7))
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "los')
    write_steps(killed, 4, range(5, 9))
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    passing = ("goodput", "lost_seconds")
    again, once = (sorted(event for event in events(folder) if event[1] not in passing) for folder in (killed, whole))
    assert again == once and len(once) == 8 * 4
    assert {value for _, name, value in events(killed) if name == "lost_seconds"} == {0.0, 1.0}
    timing = tiny.logged(killed, "timing")
    assert [line["step"] for line in timing] == list(range(1, 9))
    assert all(line["time"] > 1e9 and line["seconds"] == 0.5 for line in timing)


def test_starting_afresh_empties_the_files(tmp_path: Path) -> None:
    write_steps(tmp_path, None, range(3))
    write_steps(tmp_path, None, range(1))
    assert len(tiny.logged(tmp_path)) == 1
    assert {step for step, _, _ in events(tmp_path)} == {0}


def test_resuming_at_step_0_keeps_step_0(tmp_path: Path) -> None:
    write_steps(tmp_path, None, range(3))
    write_steps(tmp_path, 0, range(1, 2))
    assert [line["step"] for line in tiny.logged(tmp_path)] == [0, 1]


@pytest.mark.parametrize("line", ["{oops}", "3", '{"loss": 1.0}'])
def test_a_line_that_is_no_metrics_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is "):
        MetricsWriter(tmp_path, 5)


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(metrics_log, "SECONDS_PER_LINE", 0.0)
    stream = Stream(terminal)
    with Progress(10, description="sft", initial=2, stream=stream) as progress:
        for _ in range(8):
            progress.update(tokens=50)
    text = stream.getvalue()
    assert "tokens/s" in text
    assert ("100%" in text) == terminal
    assert any(line.startswith("sft: step 10/10, ") for line in text.splitlines()) != terminal


def test_progress_is_quiet_between_lines_and_on_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(False)
    with Progress(1000, stream=stream) as progress:
        for _ in range(500):
            progress.update()
    assert stream.getvalue().count("left") <= 2
    monkeypatch.setattr(metrics_log.hosts, "is_main", lambda: False)
    other = Stream(False)
    with Progress(1, stream=other) as progress:
        progress.update(tokens=1)
    assert other.getvalue() == ""
