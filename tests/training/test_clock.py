"""Seconds are counted for the right phase, and every second once; read off a clock that the test moves."""

from __future__ import annotations

import time

import pytest

from rlhf_jax.training.clock import Clock


class Hands:
    """A clock's reading."""

    now = 100.0

    def move(self, seconds: float, result: object = None) -> object:
        self.now += seconds
        return result


@pytest.fixture
def hands(monkeypatch):
    hands = Hands()
    monkeypatch.setattr(time, "perf_counter", lambda: hands.now)
    return hands


def test_phases_and_the_host_add_up(hands):
    clock = Clock()
    hands.move(1.0)
    assert clock.time("prefill", hands.move, 2.0, "result") == "result"
    clock.time("decode", hands.move, 4.0)
    clock.time("decode", hands.move, 1.0)
    hands.move(0.5)
    lap = clock.lap(tokens=34)
    assert lap == {
        "seconds": 8.5,
        "prefill_seconds": 2.0,
        "decode_seconds": 5.0,
        "host_seconds": 1.5,
        "tokens_per_second": 4.0,
    }


def test_a_lap_starts_where_the_last_one_ended(hands):
    clock = Clock()
    clock.time("update", hands.move, 3.0)
    clock.lap(tokens=1)
    hands.move(2.0)
    assert clock.lap(tokens=10) == {"seconds": 2.0, "host_seconds": 2.0, "tokens_per_second": 5.0}


def test_the_wait_for_data_is_a_share_of_the_lap(hands):
    clock = Clock()
    clock.time("data", hands.move, 1.0)
    clock.time("update", hands.move, 3.0)
    lap = clock.lap(tokens=8)
    assert (lap["data_wait"], lap["data_seconds"], lap["host_seconds"]) == (0.25, 1.0, 0.0)
    clock.time("update", hands.move, 4.0)
    assert "data_wait" not in clock.lap(tokens=8)


def test_a_call_within_a_call_is_counted_for_its_own_phase_alone(hands):
    """As arguments are: the inner call is done before the outer one begins."""
    clock = Clock()
    clock.time("decode", lambda x: hands.move(5.0, x), clock.time("prefill", hands.move, 2.0))
    lap = clock.lap(tokens=7)
    assert (lap["prefill_seconds"], lap["decode_seconds"], lap["host_seconds"]) == (2.0, 5.0, 0.0)
