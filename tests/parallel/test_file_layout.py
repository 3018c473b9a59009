"""Blocks together and each for itself are two forms of the same arrays. Checkpoints know one of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.models.scan import Blocks
from rlhf_jax.parallel import file_layout, sharding
from rlhf_jax.training.checkpoint import Checkpoints, load_top
from rlhf_jax.training.load import describe, load_base, load_policy
from rlhf_jax.training.state import State
from tests import tiny

SCANNED = Blocks(scan=True)
LAYERS = 6  # with half of them frozen: runs of three, two and one


@pytest.fixture(scope="module")
def both():
    """A state that each moment of has numbers of its own, with each block for itself and stacked."""
    model, params = tiny.network(layers=LAYERS)
    _, top = model.split(params)
    transform = optax.adam(1e-2)
    top |= {"value": {"kernel": jnp.ones(3), "top": tiny.nudged(top, 0.1)}}  # a top inside a top
    state = State.create(top, transform).updated(tiny.nudged(top, 0.5), transform)
    runs = dataclasses.replace(model, blocks=SCANNED).runs
    return state, file_layout.stacked(state, runs)


def test_a_run_is_named_by_its_first_and_last_block():
    assert [file_layout.group_name(run) for run in (range(4, 5), range(0, 25))] == ["4", "0-24"]
    assert [file_layout.blocks_of(name) for name in ("4", "0-24")] == [range(4, 5), range(0, 25)]
    assert file_layout.block_paths("top/layers/3-4/qkv/kernel") == [
        "top/layers/3/qkv/kernel",
        "top/layers/4/qkv/kernel",
    ]
    assert file_layout.block_paths("top/norm/scale") == ["top/norm/scale"]


def test_stacking_and_cutting_are_inverse(both):
    alone, together = both
    layers = together.top["layers"]
    assert set(layers) == {"3-4", "5"} == set(together.moments[0].mu["value"]["top"]["layers"])
    np.testing.assert_array_equal(layers["3-4"]["qkv"]["kernel"][1], alone.top["layers"]["4"]["qkv"]["kernel"])
    tiny.assert_same(file_layout.unstacked(together), alone)
    tiny.assert_same(file_layout.unstacked(alone), alone)


def test_a_block_of_a_stack_lies_as_the_stack_does():
    with sharding.use(tiny.MESH):
        stack = sharding.abstract((2, 4, 8), jnp.float32, (None, "embed", "mlp"))
        block = file_layout.unstacked({"layers": {"3-4": stack}})["layers"]["4"]
        assert (block.shape, block.dtype) == ((4, 8), jnp.float32)
        assert block.sharding == NamedSharding(jax.sharding.get_mesh(), PartitionSpec("fsdp", "tensor"))


@pytest.mark.parametrize("scanned_first", [False, True])
def test_a_run_goes_on_in_the_other_form(both, tmp_path, scanned_first):
    """Top and moments, bit for bit. And the file is the same whoever wrote it."""
    written, resumed = both[::-1] if scanned_first else both
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, written, {})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        tiny.assert_same(checkpoints.restore(jax.tree.map(jnp.zeros_like, resumed)), resumed)
    tiny.assert_same(load_top(tmp_path)[0], jax.tree.map(np.asarray, both[0].top))


def test_a_network_is_loaded_in_either_form(tmp_path):
    """The same trunk, by number and fingerprint, and another run's top on it."""
    folder = tiny.write_model(tmp_path / "model", layers=LAYERS)
    alone, together = (load_base(folder, 0.5, "float32", blocks=blocks) for blocks in (Blocks(), SCANNED))
    assert set(together.trunk["layers"]) == {"0-2"}
    assert together.fingerprint == alone.fingerprint
    for part in ("trunk", "top"):
        tiny.assert_same(file_layout.unstacked(getattr(together, part)), getattr(alone, part))
    run = tiny.write_run(tmp_path, tiny.nudged(alone.top, 0.1), describe(alone, "policy"))
    policies = [load_policy(folder, run, "float32", blocks=blocks) for blocks in (Blocks(), SCANNED)]
    tiny.assert_same(file_layout.unstacked(policies[1].top), policies[0].top)
