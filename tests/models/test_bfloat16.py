"""In bfloat16, what is computed does not depend on the program that computes it (design, idea 3).

Old log-probs come from a forward pass and the first update's from a forward and backward pass: were their roundings to
differ, PPO's first ratio would not be 1. The shapes also hold the CPU compiler to products that it can run: whether it
can depends on what it folds into them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import heads
from rlhf_jax.models.architecture import Architecture
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Model, merge
from rlhf_jax.parallel.devices import cast
from rlhf_jax.parallel.jit import jit

pytestmark = pytest.mark.optimised
ARCHITECTURE = Architecture(
    vocabulary=320,
    width=192,
    layers=3,
    heads=6,
    kv_heads=2,
    head_dim=32,
    mlp_features=256,
    epsilon=1e-5,
    max_length=512,
    tied=True,
)


def sequences(prompt: int, samples: int, response: int) -> Sequences:
    random = np.random.default_rng(0)
    lengths = random.integers(1, prompt + 1, (4, 1))
    endings = random.integers(1, response + 1, (4, samples, 1))
    return Sequences(
        random.integers(3, 320, (4, prompt), dtype=np.int32),
        np.arange(prompt) < lengths,
        random.integers(3, 320, (4, samples, response), dtype=np.int32),
        np.arange(response) < endings,
    )


@pytest.mark.parametrize(
    ("prompt", "samples", "response"),
    [(160, 2, 32), *(pytest.param(*odd, marks=pytest.mark.soak) for odd in [(33, 1, 5), (64, 3, 63)])],
)
def test_gradients_do_not_change_the_forward_pass(prompt, samples, response):
    model = Model(ARCHITECTURE, jnp.dtype("bfloat16"), 0.4)
    trunk, top = model.split(nn.meta.unbox(jax.jit(model.init)(jax.random.key(0))))
    trunk = cast(trunk, model.dtype)
    batch = sequences(prompt, samples, response)
    edge = jit(model.trunk)(trunk, batch)

    def log_probs(top):
        params = merge(trunk, top)
        return heads.log_probs(model, params, batch, model.top(params, batch, edge))[0]

    def loss(top):
        values = log_probs(top)
        return jnp.sum(values * batch.response_mask), values

    forward = jit(log_probs)(top)
    (_, with_gradient), gradients = jit(jax.value_and_grad(loss, has_aux=True))(top)
    np.testing.assert_array_equal(forward, with_gradient)

    wide = Model(ARCHITECTURE, jnp.dtype("float32"), 0.4)
    trunk = cast(trunk, wide.dtype)

    def wide_loss(top):
        params = merge(trunk, top)
        hidden = wide.top(params, batch, wide.trunk(trunk, batch))
        return jnp.sum(heads.log_probs(wide, params, batch, hidden)[0] * batch.response_mask)

    expected = jit(jax.grad(wide_loss))(top)
    for path, leaf in jax.tree.leaves_with_path(expected):
        actual = dict(jax.tree.leaves_with_path(gradients))[path]
        error = np.linalg.norm(actual - leaf) / np.linalg.norm(leaf)
        assert error < 0.05, f"{jax.tree_util.keystr(path)}: {error:.3f}"
