"""What surrounds the steps: when it saves and stops, what it writes, and what it does not let pass."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.training.best_checkpoint import Selection
from rlhf_jax.training.checkpoint import Checkpoints, load_top
from rlhf_jax.training.loop import FINITE, Loop, is_finished
from rlhf_jax.training.state import State

TRANSFORM = optax.sgd(1.0)


def fresh() -> State:
    return State.create({"w": jnp.zeros(2)}, TRANSFORM)


def train(
    workdir: Path, steps: int, every: int, during=lambda step: None, metrics=lambda step: {}, selection=None
) -> State:
    """A run that adds the step's number to `w`. `during(step)` is called in the middle of a step."""
    with Loop(workdir, "test", steps, every, selection) as loop:
        state = loop.restore(fresh(), "oak")
        for step in loop.steps():
            state = state.updated({"w": jnp.full(2, -float(step))}, TRANSFORM).advanced(4)
            numbers = {"loss": 1 / step, "gradient_norm": 1.0, "parameter_norm": 1.0, **metrics(step)}
            loop.log(step, numbers, {"seconds": 0.1}, 10, {"x": np.full(2, step), "y": (np.zeros((1, 3)),)})
            during(step)
            loop.save_if_due(step, state, {"role": "policy", "at": step, "trunk": "oak"})
    return state


def logged(workdir: Path, name: str = "metrics") -> list[int]:
    return [json.loads(line)["step"] for line in (workdir / f"{name}.jsonl").read_text().splitlines()]


def test_a_run_saves_when_due_and_at_its_end(tmp_path):
    state = train(tmp_path, 5, 2)
    assert float(state.top["w"][0]) == 15.0
    assert sorted(names_of(tmp_path)) == ["4", "5"]
    top, meta = load_top(tmp_path)
    assert (top["w"].tolist(), meta) == ([15.0, 15.0], {"role": "policy", "at": 5, "trunk": "oak"})
    assert logged(tmp_path) == logged(tmp_path, "timing") == [1, 2, 3, 4, 5]
    assert all("programs" in line for line in (tmp_path / "timing.jsonl").read_text().splitlines())
    assert is_finished(tmp_path, 5) and not is_finished(tmp_path, 6)


MEASURED = {2: {"score": 1.0}, 4: {"score": 3.0}, 6: {"score": 2.0}, 8: {"score": float("nan")}, 10: {"score": 3.0}}


@pytest.mark.parametrize(
    ("selection", "kept", "loaded"),
    [
        (Selection("score", "higher", "best"), ["4", "9", "10"], 4),
        (Selection("score", "higher", "latest"), ["4", "9", "10"], 10),
        (Selection("score", "lower", "best"), ["2", "9", "10"], 2),
        (Selection(), ["9", "10"], 10),
    ],
)
def test_the_best_checkpoint_stays_beside_the_latest_and_is_loaded_if_the_run_says_so(
    tmp_path, selection, kept, loaded
):
    """Saved when it is measured, though no save is due then. The first of equals. What is not finite is no best."""
    train(tmp_path, 10, 3, metrics=lambda step: MEASURED.get(step, {}), selection=selection)
    assert sorted(names_of(tmp_path), key=int) == kept
    top, meta = load_top(tmp_path)
    assert meta["at"] == loaded
    assert top["w"][0] == loaded * (loaded + 1) / 2
    assert is_finished(tmp_path, 10)


def crash_in(step: int) -> Callable[[int], float]:
    """Raises `ZeroDivisionError` in one step."""
    return lambda at: 1 / (at - step)


def names_of(workdir: Path) -> list[str]:
    return [folder.name for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit()]


@pytest.mark.parametrize("at", [3, 4, 5, 7])
def test_a_run_remembers_its_best_when_it_goes_on(tmp_path, at):
    """Invariant 13: killed in step `at`, before or after the best was saved."""
    arguments = {"metrics": lambda step: MEASURED.get(step, {}), "selection": Selection("score", "higher", "best")}
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "killed", 10, 3, during=crash_in(at), **arguments)
    train(tmp_path / "killed", 10, 3, **arguments)
    train(tmp_path / "undisturbed", 10, 3, **arguments)
    assert sorted(names_of(tmp_path / "killed")) == sorted(names_of(tmp_path / "undisturbed")) == ["10", "4", "9"]
    assert load_top(tmp_path / "killed")[1] == load_top(tmp_path / "undisturbed")[1]


def is_there(workdir: Path) -> int | None:
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.latest()


def test_a_crash_loses_what_came_after_the_checkpoint_and_no_more(tmp_path):
    """Invariant 13: the lines of the lost steps are cut off and written again."""
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "crashed", 6, 2, during=crash_in(4))
    assert logged(tmp_path / "crashed") == [1, 2, 3, 4]
    assert is_there(tmp_path / "crashed") == 2
    resumed, undisturbed = train(tmp_path / "crashed", 6, 2), train(tmp_path / "undisturbed", 6, 2)
    assert resumed.top["w"].tolist() == undisturbed.top["w"].tolist() == [21.0, 21.0]
    assert (int(resumed.step), int(resumed.position)) == (6, 24)
    texts = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("crashed", "undisturbed")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_run_after_the_step_and_saves_it(tmp_path, number, error):
    with pytest.raises(error):
        train(tmp_path, 9, 100, during=lambda step: os.kill(os.getpid(), number) if step == 3 else None)
    assert logged(tmp_path) == [1, 2, 3]
    assert is_there(tmp_path) == 3
    assert float(train(tmp_path, 5, 100).top["w"][0]) == 15.0


@pytest.mark.parametrize("name", FINITE)
def test_a_number_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path, name):
    """A gradient that is not finite has spoilt the new state, though the loss of its step is still good."""
    for first, standing in {3: "the last good checkpoint is step 2", 1: "no checkpoint is complete yet"}.items():
        workdir = tmp_path / str(first)
        workdir.mkdir()
        with pytest.raises(UserError, match=f"test: the {name} of step {first} is nan; {standing}"):
            train(workdir, 6, 1, metrics=lambda step, first=first: {name: float("nan")} if step == first else {})
        assert logged(workdir) == list(range(1, first))
        assert is_there(workdir) == (first - 1 or None)
        with np.load(workdir / f"failed_step_{first}.npz") as arrays:
            found = {key: array.tolist() for key, array in arrays.items()}
        assert found == {"x": [first, first], "y.0": [[0.0, 0.0, 0.0]]}


def test_a_run_does_not_go_on_upon_another_trunk(tmp_path):
    """Keys such as `model` may change on resuming, because a model may move. A model that differs is noticed here."""
    train(tmp_path, 2, 1)
    with (
        pytest.raises(UserError, match="was trained on the trunk oak and the model's is elm now"),
        Loop(tmp_path, "test", 4, 1) as loop,
    ):
        loop.restore(fresh(), "elm")
    assert is_there(tmp_path) == 2
