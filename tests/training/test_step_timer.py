"""Seconds are counted for the right phase, and every second once. Read off a clock that the test moves."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.parallel.chips import PEAK_FLOPS
from rlhf_jax.training.step_timer import Clock


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
    lap = clock.lap(34, {"prefill": 30.0, "decode": 55.0})
    phases = {"prefill_seconds": 2.0, "decode_seconds": 5.0, "host_seconds": 1.5, "compile_seconds": 0.0}
    assert lap == phases | {"seconds": 8.5, "tokens_per_second": 4.0, "flops_per_second": 10.0}


def test_mfu_is_the_operations_that_were_done_of_those_that_the_devices_could_do(hands, monkeypatch):
    monkeypatch.setitem(PEAK_FLOPS, jax.devices()[0].device_kind, 40.0)
    clock = Clock()
    clock.time("score", hands.move, 2.0)
    clock.time("update", hands.move, 6.0)
    hands.move(2.0)
    lap = clock.lap(1, {"score": 20.0, "update": 180.0})
    assert (lap["score_mfu"], lap["update_mfu"], lap["mfu"]) == (0.25, 0.75, 0.5)
    assert lap["flops_per_second"] == 20.0


def test_seconds_of_the_compiler_are_those_of_the_lap():
    clock = Clock()
    program = jax.jit(lambda x: jnp.sin(x) * 3)
    x = jnp.ones(5)
    clock.lap(1, {})
    clock.time("update", program, x)
    lap = clock.lap(1, {})
    assert 0.0 < lap["compile_seconds"] < lap["update_seconds"] <= lap["seconds"]
    clock.time("update", program, x)
    assert clock.lap(1, {})["compile_seconds"] == 0.0


@pytest.mark.parametrize("hidden", [np.ones(3, np.float32), 1.0])
def test_a_phase_moves_nothing_to_a_device_by_itself(hidden):
    """The other direction is not seen on a CPU, whose arrays are the host's already."""
    program = jax.jit(lambda x: x + 1)
    clock = Clock()
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        clock.time("update", program, hidden)
    assert clock.time("update", program, jax.device_put(hidden)).sum() == 2 * np.size(hidden)
    assert program(hidden).sum() == 2 * np.size(hidden)  # outside a phase it may
