"""Checkpoints: bit-exact, complete or invisible, readable in parts, refused where they do not fit."""

import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.training.checkpoint import Checkpoints, load_top

META = {"stage": "sft", "trunk": "abc", "normalisation": {"mean": 0.1, "std": 2.5}}


def make_state(scale: float = 1.0) -> dict[str, Any]:
    top = {
        "layers": {"24": {"w": scale * jnp.arange(6, dtype=jnp.float32).reshape(2, 3) / 7}},
        "norm": jnp.full((3,), scale / 3, jnp.bfloat16),
    }
    optimizer = optax.adamw(1e-3)
    updates, moments = optimizer.update(top, optimizer.init(top), top)
    return {
        "step": jnp.int32(7),
        "position": jnp.int32(56),
        "top": optax.apply_updates(top, updates),
        "optimizer": moments,
        "key": jax.random.key(3),
        "old_key": jax.random.PRNGKey(4),
    }


def assert_identical(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        if jnp.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def abstract(state: Any) -> Any:
    return jax.eval_shape(lambda: state)


def test_restores_bit_for_bit(tmp_path: Path) -> None:
    state = make_state()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(7, state, META, {"seconds": 1.5})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() == 7
        assert_identical(checkpoints.restore(abstract(state)), state)
        assert_identical(checkpoints.restore(make_state(scale=0.0), step=7), state)
        assert checkpoints.meta() == META
        assert checkpoints.timing(7) == {"seconds": 1.5}


def test_the_state_may_be_donated_while_it_is_being_written(tmp_path: Path) -> None:
    advance = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    state = {"top": {"w": jnp.zeros(200_000)}, "step": jnp.int32(0)}
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in range(1, 4):
            state = advance(state)
            meta = {"step": step}
            checkpoints.save(step, state, meta)
            meta["step"] = -1
            for _ in range(5):
                state = advance(state)
        checkpoints.wait()
        for step in range(1, 4):
            restored = checkpoints.restore(abstract(state), step)
            assert np.unique(restored["top"]["w"]) == restored["step"] == 6 * step - 5
            assert checkpoints.meta(step) == {"step": step}


def test_another_stage_reads_the_top_alone(tmp_path: Path) -> None:
    state = make_state()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(3, state, META)
    rest = tmp_path / "checkpoints" / "3" / "rest"
    shutil.rmtree(rest)
    rest.mkdir()
    top, meta = load_top(tmp_path)
    assert_identical(top, state["top"])
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(top))
    assert meta == META


def test_no_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no complete checkpoint; run the stage"):
        load_top(tmp_path / "never-run")
    assert not (tmp_path / "never-run").exists()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(UserError, match="no complete checkpoint"):
            checkpoints.meta()


@pytest.mark.parametrize("missing", ["top", "rest", "meta", "timing", "_CHECKPOINT_METADATA"])
def test_a_half_written_step_is_invisible_and_can_be_written_again(tmp_path: Path, missing: str) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), META)
    shutil.copytree(tmp_path / "1", tmp_path / "2", ignore=shutil.ignore_patterns(missing))
    shutil.copytree(tmp_path / "1", tmp_path / "3.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(2, make_state(), {"again": True})
        checkpoints.wait()
        assert checkpoints.latest() == 2
        assert checkpoints.meta() == {"again": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": {"norm": jnp.zeros(4)}}, r"'layers/24/w', expected nothing"),
        ({"step": jnp.zeros((), jnp.float32)}, r"holds int32\[\] as 'step', expected float32\[\]"),
        ({"controller": jnp.zeros(())}, r"holds nothing as 'controller', expected float32\[\]"),
    ],
)
def test_another_state_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), META)
        checkpoints.wait()
        with pytest.raises(UserError, match=message):
            checkpoints.restore(make_state() | change)


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), META)
        checkpoints.wait()
        usage = namedtuple("usage", "total used free")(1000, 900, 100)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(UserError, match=r"step 2 needs \d+ bytes in .* where 100 are free.*step 1 is complete"):
            checkpoints.save(2, make_state(), META)
        assert checkpoints.latest() == 1
        assert_identical(checkpoints.restore(abstract(make_state())), make_state())


PROGRAM = """
import resource, sys
from pathlib import Path
import jax.numpy as jnp, numpy as np
from rlhf_jax.errors import UserError
from rlhf_jax.training.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
state = {"top": {"w": jnp.asarray(np.random.rand(100_000))}, "step": jnp.int32(1)}
checkpoints.save(1, state, {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    checkpoints.save(2, state, {})
    checkpoints.wait()
except UserError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(error)
"""


def test_a_write_that_fails_is_a_sentence_and_leaves_the_last_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.stdout == (
        f"a checkpoint could not be written to {tmp_path}: File too large (that of step 1 is complete and unharmed)\n"
    )
    assert "Traceback" not in result.stderr
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        assert checkpoints.restore({"top": {"w": jnp.zeros(100_000)}, "step": jnp.int32(0)})["step"] == 1
