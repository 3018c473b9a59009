"""Goodput by hand: what the kept steps took, of the time since the first start. A killed run's is in test_sft."""

import json
import time

import pytest

from rlhf_jax.training.goodput import Goodput


@pytest.fixture
def hands(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_lost_steps_and_pauses_count_against_a_run(tmp_path, hands):
    lines = [{"seconds": 10.0, "compile_seconds": 4.0}, {"seconds": 5.0, "compile_seconds": 0.0}, {"seconds": 7.0}]
    again = {"seconds": 18.0, "compile_seconds": 8.0}
    first = Goodput(tmp_path, None, [], [])
    assert first.after(1010.0, lines[0]) == {"goodput": 6 / 10, "lost_seconds": 0.0}
    assert first.after(1015.0, lines[1]) == {"goodput": 11 / 15, "lost_seconds": 0.0}
    hands[0] = 1100.0  # killed, and started again much later, from step 1
    second = Goodput(tmp_path, 1, lines[:1], lines[1:])
    assert second.after(1120.0, again) == {"goodput": 16 / 120, "lost_seconds": 12.0}
    hands[0] = 1200.0
    third = Goodput(tmp_path, 2, [*lines[:1], again], [{"seconds": 1.0}])
    assert third.after(1250.0, {"seconds": 50.0}) == {"goodput": 66 / 250, "lost_seconds": 13.0}
    starts = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert starts == [
        {"time": 1000.0, "step": 0, "lost_steps": 0, "lost_seconds": 0},
        {"time": 1100.0, "step": 1, "lost_steps": 2, "lost_seconds": 12.0},
        {"time": 1200.0, "step": 2, "lost_steps": 1, "lost_seconds": 1.0},
    ]
