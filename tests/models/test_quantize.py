"""Int8 weights: the values by hand, the network by its products dequantised, and how far it is from the true one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import heads
from rlhf_jax.models.quantize import is_quantised, quantise, scale_path
from rlhf_jax.models.scan import Blocks
from rlhf_jax.models.transformer import merge
from rlhf_jax.parallel import file_layout
from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling.rollouts import make_sample
from rlhf_jax.training.load import load_base
from tests import tiny
from tests.families import OPT

FLOAT32 = jnp.dtype("float32")


def test_values_and_scale_by_hand():
    kernel = np.array([[1.0, -0.5, 0.0], [-2.54, 0.25, 0.0]])
    values, scale = quantise(kernel, 1, FLOAT32)
    np.testing.assert_allclose(scale, [0.02, 0.5 / 127, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(values, [[50, -127, 0], [-127, 64, 0]])  # 63.5 goes to the even number
    assert values.dtype == np.int8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_weight_is_further_off_than_half_a_step(dtype):
    """With the scale as it is stored, but for the largest weights where rounding made the scale too small for them."""
    kernel = np.random.default_rng(0).normal(size=(4, 16, 3, 5)).astype(np.float32)
    values, scale = quantise(kernel, 2, jnp.dtype(dtype))
    assert (scale.shape, scale.dtype) == ((3, 5), jnp.dtype(dtype))
    scale = np.asarray(scale, np.float32)
    error = np.abs(kernel - values * scale) / scale
    assert error.max() <= (0.5 if dtype == "float32" else 0.5 + 127 * 2**-8) * (1 + 1e-5)
    assert np.abs(values).max() == 127


@pytest.fixture(scope="module", params=[{}, {**OPT, "layers": 4}], ids=["llama", "opt"])
def pair(request, tmp_path_factory):
    """A network with float weights, and the same with an int8 trunk, scanned."""
    folder = tiny.write_model(tmp_path_factory.mktemp("model"), **{"layers": 6, **request.param})
    blocks = Blocks(scan=True, quantize_trunk="int8")
    return load_base(folder, 0.5, "float32"), load_base(folder, 0.5, "float32", blocks=blocks)


BATCH = tiny.sequences([9, 4], [[7, 8], [1, 3]], prompt=9, response=8)


def test_the_trunk_alone_is_quantised(pair):
    """Its blocks' kernels. Not its biases, norms and embeddings, and nothing of the top. The fingerprint stays."""
    true, quantised = pair
    held = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.dtype
        for path, leaf in jax.tree.leaves_with_path(quantised.trunk)
    }
    int8 = {path for path, dtype in held.items() if dtype == jnp.int8}
    assert int8 == {path for path in held if path.startswith("layers/") and path.endswith(("/kernel", "/gate_up"))}
    assert all(is_quantised(path, held) == (path in int8) for path in held)
    assert {leaf.dtype for leaf in jax.tree.leaves(quantised.top)} == {FLOAT32}
    assert quantised.fingerprint == true.fingerprint


def test_products_are_those_of_the_weights_that_int8_stands_for(pair):
    """The float network with `values * scale` for weights computes the same states at the trunk's edge."""
    true, quantised = pair

    def weights(tree):
        return {
            key: weights(leaf) if isinstance(leaf, dict) else leaf * tree.get(scale_path(key), 1)
            for key, leaf in tree.items()
            if not key.endswith("_scale") or key == "scale"
        }

    trunk = weights(file_layout.unstacked(quantised.trunk))
    expected = jit(true.model.trunk)(trunk, BATCH)
    found = jit(quantised.model.trunk)(quantised.trunk, BATCH)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pair", [{}], indirect=True)
def test_log_probs_stay_near_and_the_sampler_has_the_same(pair):
    """Of sampled responses: by the sampler, by the forward pass, and by the float network."""
    true, quantised = pair
    sample = make_sample(quantised.model, samples=2, max_new_tokens=8, temperature=1.0, eos_id=1)
    arguments = (BATCH.prompt, BATCH.prompt_mask, np.arange(2), jax.random.key(0))
    sampled = sample(quantised.trunk, quantised.top, *arguments)

    def log_probs(base):
        def forward(trunk, top):
            params = merge(trunk, top)
            hidden = base.model.top(params, sampled.sequences, base.model.trunk(trunk, sampled.sequences))
            return heads.log_probs(base.model, params, sampled.sequences, hidden)[0]

        return np.asarray(jit(forward)(base.trunk, base.top))[sampled.sequences.response_mask]

    ours = log_probs(quantised)
    np.testing.assert_allclose(np.asarray(sampled.log_probs)[sampled.sequences.response_mask], ours, atol=2e-5)
    error = np.abs(ours - log_probs(true))
    assert 0 < error.mean() < 0.1 and error.max() < 0.5
