"""What a process with eight CPU devices computes: `test_meshes` runs this file in one."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.models.attention.packed import Joined
from rlhf_jax.models.attention.splash import splash
from rlhf_jax.models.scan import Blocks
from rlhf_jax.parallel import sharding
from rlhf_jax.parallel.jit import jit
from rlhf_jax.parallel.sharding import Mesh, Rules
from rlhf_jax.stages import sft
from rlhf_jax.training.checkpoint import Checkpoints, load_top
from rlhf_jax.training.load import describe, load_base, load_policy
from rlhf_jax.training.state import State
from tests import tiny

OTHER_RULES = Rules(embed=("data", "fsdp"), vocab=(), kv_heads=())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with a vocabulary that has to be padded: 302 rows."""
    return tiny.write_model(tmp_path_factory.mktemp("model"), kv_heads=4, vocabulary=302)


def test_parameters_are_sharded_as_the_mesh_says(model):
    """A device's shard of each, counted by hand from the sizes of the network."""

    def shapes(mesh):
        with sharding.use(mesh):
            base = load_base(model, 0.5, "float32")
            return {
                jax.tree_util.keystr(path, simple=True, separator="/"): leaf.sharding.shard_shape(leaf.shape)
                for path, leaf in jax.tree.leaves_with_path({"trunk": base.trunk, "top": base.top})
            }

    shards = shapes(Mesh(1, 2, -1))
    # width 32 over fsdp 2. 4 heads, 48 features and 302 ids, padded to 304, over tensor 4
    assert shards["trunk/embed/table"] == (76, 16)
    assert shards["trunk/layers/0/qkv/kernel"] == (16, 1, 3, 8)
    assert shards["trunk/layers/0/out/kernel"] == (1, 1, 8, 16)
    assert shards["top/layers/1/mlp/gate_up"] == (16, 2, 12)
    assert shards["top/layers/1/mlp/down/kernel"] == (12, 16)
    assert shards["top/norm/scale"] == (16,)
    shards = shapes(Mesh(2, 2, 2, OTHER_RULES))
    # width 32 over data 2 and fsdp 2. Heads and ids whole. 48 features over tensor 2
    assert shards["trunk/embed/table"] == (302, 8)
    assert shards["trunk/layers/0/qkv/kernel"] == (8, 4, 3, 8)
    assert shards["top/layers/1/mlp/gate_up"] == (8, 2, 24)


def test_files_hold_the_vocabulary_without_its_padding(model, tmp_path):
    """302 rows that four devices hold as 304, moments too, are restored on two devices and unpadded on none."""
    transform = optax.adamw(0.1, weight_decay=0.1)

    def start():
        base = load_base(model, 0.0, "float32")
        return base, State.create(base.top, transform)

    def files():
        return Checkpoints(tmp_path / "checkpoints", vocabulary=302)

    def tables(state):
        return [np.asarray(tree["embed"]["table"]) for tree in (state.top, state.moments[0].mu, state.moments[0].nu)]

    with sharding.use(Mesh(1, 2, 4)):
        base, state = start()
        gradients = jax.tree.map(jnp.ones_like, state.top)
        gradients["embed"]["table"] = gradients["embed"]["table"].at[302:].set(0)
        state = jax.jit(lambda state: state.updated(gradients, transform))(state)
        with files() as checkpoints:
            checkpoints.save(1, state, describe(base, "policy"))
        written = tables(state)
    assert [table.shape for table in written] == [(304, 32)] * 3
    assert load_top(tmp_path)[0]["embed"]["table"].shape == (302, 32)
    for mesh in (Mesh(1, 2, 4, Rules(vocab=())), Mesh(2, 2, 2), Mesh(1, 1, 1)):
        with sharding.use(mesh):
            base, fresh = start()
            with files() as checkpoints:
                state = checkpoints.restore(fresh)
            for restored, new in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
                assert restored.sharding == new.sharding and restored.shape == new.shape
            for table, before in zip(tables(state), written, strict=True):
                np.testing.assert_array_equal(table[:302], before[:302])
                assert not table[302:].any()
            read = load_policy(model, str(tmp_path), "float32").top["embed"]["table"]
            assert read.shape == base.top["embed"]["table"].shape
            np.testing.assert_array_equal(np.asarray(read)[:302], written[0][:302])


@pytest.mark.parametrize(
    ("scan", "meshes"),
    [(False, (Mesh(2, 2, 2, OTHER_RULES), Mesh(1, 1, 8, Rules(kv_heads=())))), (True, (Mesh(1, 2, 4),))],
    ids=["unrolled", "scanned"],
)
def test_gradients_are_those_of_one_device(model, scan, meshes):
    """The loss and every parameter's gradient, element by element. One mesh has more devices than there are heads."""
    batch = tiny.sequences([7, 4, 5, 6, 3, 8, 2, 7], [[5, 8]] * 8, prompt=9, response=8)

    def gradients(mesh):
        with sharding.use(mesh):
            network, trunk, top, _ = load_base(model, 0.0, "float32", blocks=Blocks(scan=scan))
            loss = jit(jax.value_and_grad(lambda top, batch: sft.response_loss(network, trunk, top, batch)[0]))
            total, found = loss(top, sharding.rows(batch))
            leaves = jax.tree.leaves_with_path(found)
            return float(total), {jax.tree_util.keystr(path): np.asarray(leaf)[:302] for path, leaf in leaves}

    expected, one = gradients(Mesh(1, 1, 1))
    for mesh in meshes:
        total, shared = gradients(mesh)
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        for name, ours in shared.items():
            np.testing.assert_allclose(ours, one[name], rtol=1e-3, atol=1e-4 * np.abs(one[name]).max(), err_msg=name)


def test_a_kernel_runs_on_each_devices_shard():
    """Splash attention, which the compiler cannot divide, with its gradients: four devices against one."""

    def normal(seed, *shape):
        return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)

    real = jnp.arange(384) % 7 != 3
    arrays = normal(0, 2, 4, 256, 8), normal(1, 2, 2, 384, 8), normal(2, 2, 2, 384, 8)

    def total(queries, keys, values):
        joined = Joined(queries, keys, values, jnp.stack([real, ~real]), prompt=128, response=49)
        return (splash(joined, interpret=True) * normal(3, 2, 4, 256, 8)).sum()

    both = jax.value_and_grad(total, argnums=(0, 1, 2))
    alone = jax.jit(both)(*arrays)
    with sharding.arrange(Mesh(2, 1, 2), jax.devices()[:4]):
        divided = jax.jit(both)(*(sharding.place(x, ("batch", "kv_heads", None, None)) for x in arrays))
        assert len(divided[1][0].sharding.device_set) == 4
    for ours, theirs in zip(jax.tree.leaves(divided), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("mesh", "sentence"),
    [
        (Mesh(9, 1, 1), "the mesh is data 9 x fsdp 1 x tensor 1, which does not fit 8 devices"),
        (Mesh(1, 1, 8), "the mesh divides kv_heads over 8 devices and 4 cannot"),
    ],
)
def test_what_a_mesh_cannot_divide_is_refused(model, mesh, sentence):
    with pytest.raises(UserError, match=sentence), sharding.use(mesh):
        load_base(model, 0.0, "float32")


def test_a_microbatch_that_a_mesh_cannot_divide_is_refused():
    with (
        pytest.raises(UserError, match=r"config.microbatch is 4, which 8 devices do not divide; 8 they do"),
        sharding.use(Mesh(8, 1, 1)),
    ):
        sharding.check_rows(SimpleNamespace(microbatch=4), "microbatch")
