"""Matrix products and their own gradients, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import matmul
from rlhf_jax.models.matmul import TILE


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(3, 2 * TILE, TILE), (3, TILE, 5), (4, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_contract_rows_is_a_product_with_the_transpose(shape, dtype):
    """Shapes that go through the tiles and shapes that do not."""
    a, b = (jnp.asarray(normal(seed, *shape[:-1], width), dtype) for seed, width in ((0, shape[-1]), (1, 24)))
    expected = np.swapaxes(np.asarray(a, np.float64), -1, -2) @ np.asarray(b, np.float64)
    actual = jax.jit(matmul.contract_rows)(a, b)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize(("tokens", "width"), [(2 * TILE, TILE), (2 * TILE, TILE + 8), (5, 2 * TILE)])
def test_matmul_and_its_gradients(tokens, width):
    """Shapes that go through the tiles and shapes that do not."""
    x, kernel, pull = normal(0, tokens, width), normal(1, width, 24), normal(2, tokens, 24)
    y, backward = jax.vjp(matmul.matmul, x, kernel)
    d_x, d_kernel = backward(jnp.asarray(pull))
    for actual, expected in ((y, x @ kernel), (d_x, pull @ kernel.T), (d_kernel, x.T @ pull)):
        np.testing.assert_allclose(actual, expected, atol=1e-4)
