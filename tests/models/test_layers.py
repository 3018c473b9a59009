"""Layers, and their own gradients, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import layers
from rlhf_jax.models.architecture import Rotary
from rlhf_jax.models.layers import GatedMLP, RMSNorm
from tests import numpy_llama


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rms_norm(dtype):
    x, scale = jnp.asarray(100 * normal(0, 3, 16), dtype), normal(1, 16)
    y = RMSNorm(1e-5).apply({"params": {"scale": jnp.asarray(scale)}}, x)
    assert y.dtype == dtype
    expected = numpy_llama.rms_norm(np.asarray(x, np.float64), scale.astype(np.float64), 1e-5)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=1e-5 if dtype == "float32" else 0.02)


def test_rotary_embeddings_turn_the_halves_of_each_head():
    """Hugging Face's layout, and theta's wavelengths, against complex numbers."""
    x = normal(0, 3, 50, 8)
    actual = layers.rotate(jnp.asarray(x), layers.rotary_angles(jnp.arange(50), Rotary(500.0).frequencies(8)))
    expected = numpy_llama.rotate(x.astype(np.float64).swapaxes(0, 1), 500.0)
    np.testing.assert_allclose(actual, expected.swapaxes(0, 1), atol=2e-5)


def test_gated_mlp_and_its_gradients():
    x, gate_up, down = normal(0, 2, 3, 4), normal(1, 4, 2, 6), normal(2, 6, 4)
    pull = normal(3, 2, 3, 4)

    def expected(x, gate_up, down):
        return (jax.nn.silu(x @ gate_up[:, 0]) * (x @ gate_up[:, 1])) @ down

    def actual(x, gate_up, down):
        return GatedMLP(4, 6, jax.nn.silu).apply({"params": {"gate_up": gate_up, "down": {"kernel": down}}}, x)

    both = [jax.vjp(function, x, gate_up, down) for function in (actual, expected)]
    for a, e in zip(*((out, *backward(jnp.asarray(pull))) for out, backward in both), strict=True):
        np.testing.assert_allclose(a, e, atol=1e-4)
