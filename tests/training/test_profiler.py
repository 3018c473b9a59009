"""Traces hold the steps that were asked for, by number or by a signal, and no others."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.training.loggers import Logging
from rlhf_jax.training.profiler import Profiles
from rlhf_jax.training.step_timer import Clock
from tests import tiny


def train(folder: Path, logging: Logging, steps: range, during: Callable[[int], None] = lambda step: None) -> None:
    clock, update, state = Clock(), jax.jit(lambda x: x * x), jnp.ones(3)
    with Profiles(folder, logging) as profiles:
        for step in steps:
            profiles.before(step)
            state = clock.time(f"update{step}", update, state)
            during(step)


def traced(folder: Path) -> list[list[int]]:
    """The steps in each trace, by the name of their phase."""
    found = tiny.traced(folder, "update")
    steps = [[int(name.removeprefix("update")) for name in names] for names in found.values()]
    assert list(found) == [f"step-{first}" for first, *_ in steps]
    return steps


@pytest.mark.parametrize(
    ("window", "steps", "expected"),
    [
        ((3, 4), range(1, 7), [[3, 4]]),
        ((3, 9), range(1, 6), [[3, 4, 5]]),  # the run ends first
        ((2, 4), range(3, 7), [[3, 4]]),  # it goes on from step 2
        ((2, 4), range(5, 7), []),
    ],
)
def test_a_trace_holds_the_steps_of_its_window(tmp_path, window, steps, expected):
    train(tmp_path, Logging(profile_steps=window), steps)
    assert traced(tmp_path) == expected


@pytest.mark.parametrize(
    ("signals", "window", "expected"),
    [
        ([2, 3], (), [[3, 4, 5]]),  # a second one makes the trace longer
        ([2, 5], (), [[3, 4], [6, 7]]),
        ([1], (3, 5), [[2, 3, 4, 5]]),
    ],
)
def test_a_signal_begins_a_trace_with_the_next_step(tmp_path, capfd, signals, window, expected):
    before = signal.getsignal(signal.SIGUSR1)

    def during(step: int) -> None:
        if step in signals:
            os.kill(os.getpid(), signal.SIGUSR1)

    train(tmp_path, Logging(profile_steps=window, signal_steps=2), range(1, 9), during)
    assert traced(tmp_path) == expected
    assert capfd.readouterr().err.count(f"profiling the next 2 steps into {tmp_path}") == len(signals)
    assert signal.getsignal(signal.SIGUSR1) is before
