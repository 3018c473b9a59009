import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.config import parse
from rlhf_jax.configs import common
from rlhf_jax.errors import UserError
from rlhf_jax.parallel import sharding
from rlhf_jax.parallel.sharding import Mesh, Rules
from tests import tiny


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
    assert sharding.shards("batch") == 1
    assert sharding.device_count() == 1


def test_a_mesh_counts_its_devices():
    abstract = jax.sharding.AbstractMesh((2, 1, 4), sharding.AXES)
    with jax.sharding.use_abstract_mesh(abstract):
        assert sharding.device_count() == 8


def test_every_logical_axis_is_divided_or_named_here():
    """A misspelt axis would be left whole without a word."""
    model, _ = tiny.network(tied=False)
    named = {axis for axes in model.logical_axes().values() for axis in axes}
    assert named - {field.name for field in dataclasses.fields(Rules)} == {"qkv", "head_dim", "group", "gate_up"}


def test_rules_of_a_config_are_those_of_a_mesh_that_names_none():
    assert parse(Mesh, common.mesh()) == Mesh(1, 1, 1)


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"embed": ("fsdp", "fsdp")}, r"mesh.rules.embed is \('fsdp', 'fsdp'\); expected each axis of the mesh once"),
        ({"embed": ("tensor",)}, r"mesh.rules.embed\[0\] is 'tensor' \(str\), expected 'data' or 'fsdp'"),
        ({"mlp": "tensor"}, r"mesh.rules.mlp is 'tensor' \(str\), expected"),
        ({"heads": ()}, r"mesh.rules has no key 'heads'; did you mean 'kv_heads'"),
    ],
)
def test_rules_without_meaning_are_refused(rules, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(Mesh, {"data": 1, "fsdp": 1, "tensor": 1, "rules": rules}, "mesh")


def test_a_program_is_compiled_for_each_set_of_rules():
    """By the rules of its first call alone it would divide what others leave whole."""
    seen = []

    @jax.jit
    def axis_of_vocab(x):
        seen.append(sharding.spec(("vocab",))[0])
        return x

    for rules in (Rules(), Rules(vocab=()), Rules()):
        with sharding.arrange(Mesh(1, 1, 1, rules)):
            axis_of_vocab(jnp.arange(3))
    assert seen == ["tensor", None]
