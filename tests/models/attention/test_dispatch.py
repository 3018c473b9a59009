"""Which implementation runs where, and that the network's attention is the one chosen."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.attention import dispatch
from rlhf_jax.models.attention.cudnn import cudnn
from rlhf_jax.models.attention.splash import splash
from tests import tiny

CPU = SimpleNamespace(platform="cpu")
TPU = SimpleNamespace(platform="tpu")
AMPERE, TURING, AMD = (
    SimpleNamespace(platform="gpu", compute_capability=capability) for capability in ("8.0", "7.5", "gfx942")
)


@pytest.mark.parametrize(
    ("device", "dtype", "width", "window", "kernel"),
    [
        (CPU, "float32", 64, None, None),
        (TPU, "float16", 128, None, None),
        (TPU, "bfloat16", 128, 1023, None),
        (AMPERE, "bfloat16", 128, None, cudnn),
        (AMPERE, "float16", 80, 1024, cudnn),
        (AMPERE, "bfloat16", 64, 1023, None),
        (AMPERE, "bfloat16", 100, None, None),
        (AMD, "bfloat16", 64, None, None),
    ],
)
def test_the_kernel_follows_from_platform_dtype_width_and_window(device, dtype, width, window, kernel):
    assert dispatch.choose(device, jnp.dtype(dtype), width, 1024, window) is kernel


@pytest.fixture(scope="module")
def results():
    """A function that computes a loss, over states that the heads read, and its gradients by the parameters.

    Prompts are of any length, one of one token, and responses end early.
    """
    model, params = tiny.network(layers=2)
    batch = tiny.sequences([7, 1, 4], [[5, 8], [1, 3], [8, 2]], prompt=9, response=8)

    def loss(params):
        states = model.top(params, batch, model.trunk(params, batch))[:, :, :-1]
        return jnp.sum(jnp.sin(states) * batch.response_mask[..., None])

    return lambda: jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def expected(results):
    return results()


@pytest.mark.parametrize(
    "kernel", [partial(splash, interpret=True), partial(cudnn, implementation="xla")], ids=["splash", "cudnn"]
)
def test_a_network_computes_the_same_by_every_kernel(kernel, results, expected, monkeypatch):
    called = []

    def counted(*arguments, **settings):
        called.append(kernel)
        return kernel(*arguments, **settings)

    monkeypatch.setattr(dispatch, "choose", lambda *_: counted)
    found = results()
    assert called
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
