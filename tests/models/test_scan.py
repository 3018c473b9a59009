"""One body over a run of blocks computes what they do one by one. What is saved for the backward pass is a choice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import heads, scan
from rlhf_jax.models.scan import REMAT, Blocks
from rlhf_jax.models.transformer import merge
from rlhf_jax.parallel import file_layout
from rlhf_jax.parallel.devices import cast
from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling.rollouts import make_sample
from tests import tiny
from tests.families import OPT

BATCH = tiny.sequences([9, 4], [[7, 8], [1, 3]], prompt=9, response=8)
LAYERS, FREEZE = 4, 0.25  # one block frozen; two that can be scanned, and the last one
QWEN = {"family": "qwen2", "qkv_bias": True, "windows": (None, 9, 9, 9)}


def test_runs_end_where_blocks_differ():
    deep = tiny.architecture(layers=32)
    assert scan.runs(deep, 25, scan=True) == [range(0, 25), range(25, 31), range(31, 32)]
    assert scan.runs(deep, 25, scan=False) == [range(i, i + 1) for i in range(32)]
    assert scan.runs(deep, 0, scan=True) == [range(0, 31), range(31, 32)]
    assert scan.runs(tiny.architecture(layers=2), 1, scan=True) == [range(0, 1), range(1, 2)]
    windowed = tiny.architecture(layers=6, windows=(None, None, 9, 9, 9, 9))
    assert scan.runs(windowed, 3, scan=True) == [range(0, 2), range(2, 3), range(3, 5), range(5, 6)]


def both(dtype: str, **changes):
    """A network unrolled and scanned, each with its trunk and top as stages hold them."""
    model, params = tiny.network(FREEZE, dtype, layers=LAYERS, **changes)
    scanned = dataclasses.replace(model, blocks=Blocks(scan=True))
    for network, held in ((model, params), (scanned, file_layout.stacked(params, scanned.runs))):
        trunk, top = network.split(held)
        yield network, cast(trunk, network.dtype), top


def log_probs_and_gradients(model, trunk, top):
    """Of the responses in `BATCH`, the gradients with each block for itself."""

    def loss(top):
        params = merge(trunk, top)
        hidden = model.top(params, BATCH, model.trunk(trunk, BATCH))
        log_probs, _ = heads.log_probs(model, params, BATCH, hidden)
        return jnp.sum(log_probs * BATCH.response_mask), log_probs

    (_, log_probs), gradients = jit(jax.value_and_grad(loss, has_aux=True))(top)
    return np.where(BATCH.response_mask, log_probs, 0), file_layout.unstacked(gradients)


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        ("float32", QWEN),
        pytest.param("float32", OPT, marks=pytest.mark.soak),
        pytest.param("bfloat16", {}, marks=[pytest.mark.optimised, pytest.mark.soak]),
    ],
    ids=["qwen2 windows", "opt", "llama bfloat16"],
)
def test_scanned_is_unrolled(dtype, changes):
    """Samples with all that sampling leaves behind exactly, log-probs and gradients to rounding.

    In bfloat16 the log-probs are the same too.
    """
    unrolled, scanned = ((*log_probs_and_gradients(*network), sampled(*network)) for network in both(dtype, **changes))
    np.testing.assert_allclose(scanned[0], unrolled[0], rtol={"float32": 2e-6, "bfloat16": 0}[dtype])
    tiny.assert_same(scanned[2], unrolled[2])
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(scanned[1]), jax.tree.leaves(unrolled[1]), strict=True):
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < tolerance, (jax.tree_util.keystr(path), error)


def sampled(model, trunk, top):
    sample = make_sample(model, samples=2, max_new_tokens=20, temperature=0.7, eos_id=1)
    return sample(trunk, top, BATCH.prompt, BATCH.prompt_mask, np.arange(2), jax.random.key(0))


def test_a_program_does_not_grow_with_depth():
    def products(layers: int, scan: bool) -> int:
        model, params = tiny.network(0.5, layers=layers)
        model = dataclasses.replace(model, blocks=Blocks(scan=scan))
        trunk, top = model.split(file_layout.stacked(params, model.runs))
        loss = lambda top: model.top(merge(trunk, top), BATCH, model.trunk(trunk, BATCH)).sum()  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(top)).count("dot_general")

    assert products(4, scan=True) == products(6, scan=True)
    assert products(4, scan=False) < products(6, scan=False)


@pytest.mark.parametrize("scan", [False, True])
def test_rematerialisation_saves_less(scan):
    model, trunk, top = list(both("float32"))[scan]
    kept = {}
    for remat in ("none", *REMAT):
        network = with_remat(model, remat)

        def forward(top, network=network):
            return network.top(merge(trunk, top), BATCH, network.trunk(trunk, BATCH))

        residuals = jax.eval_shape(lambda top, forward=forward: jax.vjp(forward, top)[1], top)
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(residuals))
    assert kept["full"] < kept["projections"] < kept["none"]


def test_rematerialisation_changes_no_number():
    _, (model, trunk, top) = both("float32")
    expected = log_probs_and_gradients(model, trunk, top)
    for remat in REMAT:
        found = log_probs_and_gradients(with_remat(model, remat), trunk, top)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=remat)


def with_remat(model, remat):
    return dataclasses.replace(model, blocks=dataclasses.replace(model.blocks, remat=remat))
