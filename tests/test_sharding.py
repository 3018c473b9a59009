from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax import sharding
from rlhf_jax.errors import UserError
from rlhf_jax.sharding import Mesh


def test_a_mesh_fills_what_is_left():
    assert sharding.make_mesh(Mesh(-1, 1, 1)).shape == {"data": len(jax.devices()), "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (0, 1, 1), (1, -2, 1)])
def test_sizes_without_meaning_are_refused(sizes):
    with pytest.raises(UserError, match=r"expected sizes of 1 or more, or -1 once"):
        Mesh(*sizes)


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    with pytest.raises(UserError, match=rf"tensor {len(jax.devices()) + 1}, which does not fit"):
        sharding.make_mesh(Mesh(1, 1, len(jax.devices()) + 1))


def test_without_a_mesh_nothing_is_constrained():
    x = jnp.arange(3)
    assert sharding.constrain(x, "batch") is x
    assert sharding.shares("batch") == 1
    assert sharding.device_count() == 1


def test_a_mesh_counts_its_devices():
    abstract = jax.sharding.AbstractMesh((2, 1, 4), sharding.AXES)
    with jax.sharding.use_abstract_mesh(abstract):
        assert sharding.device_count() == 8


def test_every_logical_axis_is_divided_or_named_here():
    """A misspelt axis would be left whole without a word."""
    from tests import tiny

    model, _ = tiny.network(tied=False)
    named = {axis for axes in model.logical_axes().values() for axis in axes}
    assert named - set(sharding.RULES) == {"qkv", "head_dim", "group", "gate_up"}
