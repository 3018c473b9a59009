"""Gradients of sums are the same however the batch is divided, and a step changes what it should."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.training.state import (
    State,
    check_divides,
    over_microbatches,
    summed_gradients,
)


def loss(params, rows):
    x, mask = rows["x"], rows["mask"]
    error = (jnp.tanh(x @ params["w"]) - params["b"]) ** 2 * mask
    return error.sum(), {"tokens": mask.sum(), "largest": error.max()}


@pytest.mark.parametrize("microbatch", [1, 2, 3, 6])
def test_gradients_are_summed_over_microbatches(microbatch):
    """Invariant 6: one pass and k passes. The rows have different numbers of tokens."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=4), jnp.float32), "b": jnp.float32(0.3)}
    batch = {"x": rng.normal(size=(6, 5, 4)).astype(np.float32), "mask": rng.random((6, 5)) < 0.5}
    (value, _), expected = jax.value_and_grad(loss, has_aux=True)(params, batch)
    gradients, metrics = summed_gradients(loss, params, batch, microbatch)
    assert {name: parts.shape for name, parts in metrics.items()} == dict.fromkeys(
        ("loss", "tokens", "largest"), (6 // microbatch,)
    )
    assert float(metrics["loss"].sum()) == pytest.approx(float(value), rel=1e-6)
    assert int(metrics["tokens"].sum()) == batch["mask"].sum()
    for actual, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


def test_a_state_counts_its_steps_and_the_examples_it_has_seen():
    transform = optax.sgd(0.5)
    state = State.create({"w": jnp.ones(2)}, transform)
    assert (int(state.step), int(state.position)) == (0, 0)
    updated = state.updated({"w": jnp.array([2.0, 4.0])}, transform)
    np.testing.assert_allclose(updated.top["w"], [0.0, -1.0])
    assert (int(updated.step), int(updated.position)) == (0, 0)
    advanced = updated.advanced(16).advanced(16)
    assert (int(advanced.step), int(advanced.position)) == (2, 32)


@pytest.mark.parametrize("microbatch", [1, 2, 3, 6])
def test_results_of_microbatches_are_in_the_order_of_the_rows(microbatch):
    rows = {"a": jnp.arange(6.0), "b": jnp.arange(12).reshape(6, 2)}
    seen, doubled = over_microbatches(lambda r: (r["b"], 2 * r["a"]), rows, microbatch)
    np.testing.assert_array_equal(seen, rows["b"])
    np.testing.assert_array_equal(doubled, 2 * rows["a"])


@pytest.mark.parametrize(("total", "size", "nearest"), [(12, 5, 4), (12, 0, 1), (7, 3, 1), (8, 9, 8), (8, -2, 1)])
def test_a_size_that_does_not_divide_is_refused(total, size, nearest):
    message = f"config.microbatch is {size}, which does not divide config.batch_size {total}; {nearest} does"
    with pytest.raises(UserError, match=message):
        check_divides("config.microbatch", size, "config.batch_size", total)
    check_divides("config.microbatch", nearest, "config.batch_size", total)
