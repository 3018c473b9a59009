"""Every stage on a mesh of CPU devices does what it does on one device."""

from __future__ import annotations

import json

import pytest

from tests import tiny
from tests.devices import TRAINED, assert_same, study, with_devices

SOAK = pytest.mark.soak
NETWORKS = (*TRAINED, "sample_pairs.sampling", "best_of_n.sampling")
SCANNED = tuple(f"--config.stages.{stage}.blocks.scan=True" for stage in NETWORKS)
OTHER_RULES = tuple(
    f"--config.stages.{stage}.mesh.rules.{rule}"
    for stage in NETWORKS
    for rule in ("embed=('data', 'fsdp')", "vocab=()", "kv_heads=()")
)


@pytest.mark.parametrize(
    ("mesh", "devices", "hosts", "arguments"),
    [
        ("2,2,2", 8, 2, SCANNED),
        pytest.param("2,2,2", 8, 1, (), marks=SOAK),
        pytest.param("2,2,2", 8, 2, (), marks=SOAK),
        pytest.param("8,1,1", 8, 1, (), marks=SOAK),
        pytest.param("1,8,1", 8, 1, SCANNED, marks=SOAK),
        pytest.param("1,1,4", 4, 1, (), marks=SOAK),
        pytest.param("1,1,1", 1, 1, SCANNED, marks=SOAK),
        pytest.param("2,2,2", 8, 1, OTHER_RULES, marks=SOAK),
    ],
)
def test_a_mesh_computes_what_one_device_does(whole, tmp_path, mesh, devices, hosts, arguments):
    """Every stage that runs a network, and between them those that run on the main process alone; scanned, too, on
    which the blocks are held and run in another form.
    """
    assert_same(study(tmp_path / whole.name, mesh, *arguments, devices=devices, hosts=hosts), whole)


@pytest.mark.soak
def test_a_run_resumes_on_another_mesh(whole, tmp_path):
    """Checkpoints hold whole arrays, each block for itself, wherever and however they lay: PPO's last step is made on
    other devices than its first two, and scanned.
    """
    folder = study(tmp_path / whole.name, "2,2,2", "--config.stages.ppo.num_rollouts=2")
    assert_same(study(folder, "8,1,1", *SCANNED), whole)


def test_parameters_lie_on_the_devices_that_the_mesh_says(tmp_path):
    """A device's share of each, counted by hand from the sizes of the network, in a process with 8 devices."""
    script = """
import json, sys
import jax
from rlhf_jax import sharding
from rlhf_jax.runs import load_base

def shapes(**mesh):
    with sharding.use(sharding.Mesh(**mesh)):
        base = load_base(sys.argv[1], 0.5, "float32")
        return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.sharding.shard_shape(leaf.shape)
                for path, leaf in jax.tree.leaves_with_path({"trunk": base.trunk, "top": base.top})}

rules = sharding.Rules(embed=("data", "fsdp"), vocab=(), kv_heads=())
print(json.dumps([shapes(data=1, fsdp=2, tensor=-1), shapes(data=2, fsdp=2, tensor=2, rules=rules)]))
"""
    model = tiny.write_model(tmp_path / "model", kv_heads=4, vocabulary=302)
    ran = with_devices(8, "-c", script, model)
    assert ran.returncode == 0, ran.stderr
    shares, by_other_rules = json.loads(ran.stdout)
    # width 32 over fsdp 2; 4 heads, 48 features and 302 ids, padded to 304, over tensor 4
    assert shares["trunk/embed/table"] == [76, 16]
    assert shares["trunk/layers/0/qkv/kernel"] == [16, 1, 3, 8]
    assert shares["trunk/layers/0/out/kernel"] == [1, 1, 8, 16]
    assert shares["top/layers/1/mlp/gate_up"] == [16, 2, 12]
    assert shares["top/layers/1/mlp/down/kernel"] == [12, 16]
    assert shares["top/norm/scale"] == [16]
    # width 32 over data 2 and fsdp 2; heads and ids whole; 48 features over tensor 2
    assert by_other_rules["trunk/embed/table"] == [302, 8]
    assert by_other_rules["trunk/layers/0/qkv/kernel"] == [8, 4, 3, 8]
    assert by_other_rules["top/layers/1/mlp/gate_up"] == [8, 2, 24]


def test_files_hold_the_vocabulary_as_it_is(tmp_path):
    """302 rows that four devices hold as 304, moments too, go on where two hold them, and by rules that leave them
    whole; so does a stage that reads the run.
    """
    script = """
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rlhf_jax import sharding
from rlhf_jax.runs import describe, load_base, load_policy
from rlhf_jax.sharding import Mesh, Rules
from rlhf_jax.training.checkpoint import Checkpoints, load_top
from rlhf_jax.training.update import State

model, run = sys.argv[1:]
transform = optax.adamw(0.1, weight_decay=0.1)

def start():
    base = load_base(model, 0.0, "float32")
    return base, State.create(base.top, transform), base.model.architecture.vocabulary

def files(vocabulary):
    return Checkpoints(Path(run) / "checkpoints", vocabulary=vocabulary)

def tables(state):
    return [np.asarray(tree["embed"]["table"]) for tree in (state.top, state.moments[0].mu, state.moments[0].nu)]

with sharding.use(Mesh(1, 2, 4)):
    base, state, vocabulary = start()
    gradients = jax.tree.map(jnp.ones_like, state.top)
    gradients["embed"]["table"] = gradients["embed"]["table"].at[vocabulary:].set(0)
    state = jax.jit(lambda state: state.updated(gradients, transform))(state)
    with files(vocabulary) as checkpoints:
        checkpoints.save(1, state, describe(base, "policy"))
    written = tables(state)
assert [table.shape for table in written] == [(304, 32)] * 3
assert load_top(Path(run))[0]["embed"]["table"].shape == (302, 32)
for mesh in (Mesh(1, 2, 4), Mesh(1, 2, 4, Rules(vocab=())), Mesh(2, 2, 2), Mesh(1, 1, 1)):
    with sharding.use(mesh):
        base, fresh, vocabulary = start()
        with files(vocabulary) as checkpoints:
            state = checkpoints.restore(fresh)
        for restored, new in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
            assert restored.sharding == new.sharding and restored.shape == new.shape
        for table, before in zip(tables(state), written, strict=True):
            np.testing.assert_array_equal(table[:302], before[:302])
            assert not table[302:].any()
        read = load_policy(model, run, "float32").top["embed"]["table"]
        assert read.shape == base.top["embed"]["table"].shape
        np.testing.assert_array_equal(np.asarray(read)[:302], written[0][:302])
"""
    model = tiny.write_model(tmp_path / "model", kv_heads=4, vocabulary=302)
    ran = with_devices(8, "-c", script, model, str(tmp_path / "run"))
    assert ran.returncode == 0, ran.stderr


def test_gradients_on_forced_tokens_are_those_of_one_device(tmp_path):
    """The loss and every parameter's gradient, element by element, with a vocabulary that has to be padded."""
    script = """
import sys
import jax
import numpy as np
from rlhf_jax import sft, sharding
from rlhf_jax.models.depth import Blocks
from rlhf_jax.runs import load_base
from rlhf_jax.sharding import Mesh, Rules
from rlhf_jax.training.run import jit
from tests import tiny

batch = tiny.sequences([7, 4, 5, 6, 3, 8, 2, 7], [[5, 8]] * 8, prompt=9, response=8)

def gradients(mesh, scan):
    with sharding.use(mesh):
        blocks = Blocks(scan=scan, remat="none", quantize_trunk="none")
        model, trunk, top, _ = load_base(sys.argv[1], 0.0, "float32", blocks=blocks)
        loss = jit(jax.value_and_grad(lambda top, batch: sft.response_loss(model, trunk, top, batch)[0]))
        total, found = loss(top, sharding.rows(batch))
        vocabulary = model.architecture.vocabulary
        return float(total), {jax.tree_util.keystr(path): np.asarray(leaf)[:vocabulary]
                              for path, leaf in jax.tree.leaves_with_path(found)}

rules = Rules(embed=("data", "fsdp"), vocab=(), kv_heads=())
more_devices_than_heads = Mesh(1, 1, 8, Rules(kv_heads=()))
for scan, meshes in {
    False: (Mesh(2, 2, 2), Mesh(2, 2, 2, rules), more_devices_than_heads),
    True: (Mesh(1, 2, 4),),
}.items():
    expected, one = gradients(Mesh(1, 1, 1), scan)
    for mesh in meshes:
        total, shared = gradients(mesh, scan)
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        for name, ours in shared.items():
            np.testing.assert_allclose(ours, one[name], rtol=1e-3, atol=1e-4 * np.abs(one[name]).max(), err_msg=name)
"""
    model = tiny.write_model(tmp_path / "model", kv_heads=4, vocabulary=303)
    ran = with_devices(8, "-c", script, model)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--config.stages.sft.mesh.data=9"],
            "the mesh is data 9 x fsdp 1 x tensor 1, which does not fit 8 devices",
        ),
        (["--config.stages.sft.microbatch=4"], "config.microbatch is 4, which 8 devices cannot share evenly; 8 they"),
        (["--config.stages.initialize.kv_heads=2"], "the mesh divides kv_heads over 8 devices and 2 cannot"),
    ],
)
def test_what_a_mesh_cannot_divide_is_refused(tmp_path, arguments, sentence):
    mesh = "1,1,8" if "kv_heads" in arguments[0] else "8,1,1"
    with pytest.raises(AssertionError) as failure:
        study(tmp_path / "study", mesh, *arguments)
    assert f"error: {sentence}" in str(failure.value)


def test_a_kernel_runs_on_each_devices_share():
    """Splash attention, which the compiler cannot divide, with its gradients: four devices against one."""
    script = """
import jax
import jax.numpy as jnp
import numpy as np
from rlhf_jax import sharding
from rlhf_jax.models.attention_joined import Joined
from rlhf_jax.models.attention_tpu import splash

def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)

real = jnp.arange(384) % 7 != 3
arrays = normal(0, 2, 4, 256, 8), normal(1, 2, 2, 384, 8), normal(2, 2, 2, 384, 8)

def total(queries, keys, values):
    out = splash(Joined(queries, keys, values, jnp.stack([real, ~real]), prompt=128, response=49), interpret=True)
    return (out * normal(3, 2, 4, 256, 8)).sum()

both = jax.value_and_grad(total, argnums=(0, 1, 2))
alone = jax.jit(both)(*arrays)
with sharding.use(sharding.Mesh(data=2, fsdp=1, tensor=2)):
    divided = jax.jit(both)(*(sharding.place(x, ("batch", "kv_heads", None, None)) for x in arrays))
    assert len(divided[1][0].sharding.device_set) == 4
for ours, theirs in zip(jax.tree.leaves(divided), jax.tree.leaves(alone), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
"""
    ran = with_devices(4, "-c", script)
    assert ran.returncode == 0, ran.stderr
