"""Losses against NumPy in float64, written from the papers. Each is a sum, so microbatches add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.rl.ppo_loss import clipped_policy_loss, clipped_value_loss
from rlhf_jax.training import losses

RESPONSES, LENGTH = 3, 5
few = settings(max_examples=40)


def draw(seed: int) -> dict[str, np.ndarray]:
    """A rollout of numbers, float32, and its mask. Cells outside the mask hold numbers too."""
    rng = np.random.default_rng(seed)
    shape = (RESPONSES, LENGTH)
    old = rng.normal(-3, 1, shape)
    values = rng.normal(size=shape)
    arrays = {
        "log_probs": old + rng.normal(0, 0.3, shape),
        "old_log_probs": old,
        "advantages": rng.normal(size=shape),
        "values": values + rng.normal(0, 0.4, shape),
        "old_values": values,
        "returns": rng.normal(size=shape),
    }
    mask = np.arange(LENGTH) < rng.integers(1, LENGTH + 1, RESPONSES)[:, None]
    return {**{name: array.astype(np.float32) for name, array in arrays.items()}, "mask": mask}


def ppo_in_float64(clip: float, **arrays: np.ndarray) -> dict[str, float]:
    """PPO token by token: Schulman et al. (2017), eq. 7, and the clipped value error."""
    total = dict.fromkeys(("policy", "value", "clip_fraction", "approximate_kl", "value_clip_fraction"), 0.0)
    for index in np.argwhere(arrays["mask"]):
        cell = {name: float(array[tuple(index)]) for name, array in arrays.items()}
        log_ratio = cell["log_probs"] - cell["old_log_probs"]
        ratio = np.exp(log_ratio)
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        total["policy"] -= min(ratio * cell["advantages"], bounded * cell["advantages"])
        total["clip_fraction"] += ratio != bounded
        total["approximate_kl"] += ratio - 1 - log_ratio
        near = cell["old_values"] + min(max(cell["values"] - cell["old_values"], -clip), clip)
        errors = (cell["values"] - cell["returns"]) ** 2, (near - cell["returns"]) ** 2
        total["value"] += max(errors) / 2
        total["value_clip_fraction"] += errors[1] > errors[0]
    return total


@few
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.2, 0.5]))
def test_ppo_losses_equal_float64(seed, clip):
    arrays = draw(seed)
    names = ("log_probs", "old_log_probs", "advantages", "mask")
    policy, metrics = clipped_policy_loss(*(arrays[name] for name in names), clip)
    names = ("values", "old_values", "returns", "mask")
    value, value_metrics = clipped_value_loss(*(arrays[name] for name in names), clip)
    expected = ppo_in_float64(clip, **arrays)
    actual = {"policy": policy, "value": value, **metrics, **value_metrics}
    for name, number in expected.items():
        assert float(actual[name]) == pytest.approx(number, rel=1e-4, abs=1e-4), name
    ratios = np.exp(arrays["log_probs"] - arrays["old_log_probs"])[arrays["mask"]]
    assert float(actual["ratio_max"]) == pytest.approx(
        max(ratios.max(), 1.0 if not arrays["mask"].all() else 0.0), rel=1e-5
    )
    assert float(actual["ratio_min"]) == pytest.approx(
        min(ratios.min(), 1.0 if not arrays["mask"].all() else 9.0), rel=1e-5
    )


def test_the_gradient_of_a_token_is_its_advantage_until_the_clip_and_zero_past_it():
    old = jnp.zeros((1, 4))
    log_probs = jnp.log(jnp.array([[1.0, 1.3, 0.7, 1.3]]))
    advantages = jnp.array([[2.0, 2.0, -2.0, -2.0]])  # unclipped. Clipped above. Clipped below. Pushed back
    mask = jnp.ones((1, 4), bool)
    gradient = jax.grad(lambda x: clipped_policy_loss(x, old, advantages, mask, 0.2)[0])(log_probs)
    np.testing.assert_allclose(gradient, [[-2.0, 0.0, 0.0, 2.6]], atol=1e-5)


def test_what_lies_outside_the_mask_changes_neither_losses_nor_gradients():
    """Even numbers that are not finite."""
    arrays = draw(0)
    mask = arrays["mask"]
    assert not mask.all()

    def total(log_probs, values):
        policy, _ = clipped_policy_loss(log_probs, arrays["old_log_probs"], arrays["advantages"] * mask, mask, 0.2)
        value, _ = clipped_value_loss(values, arrays["old_values"], arrays["returns"], mask, 0.2)
        return policy + value + losses.cross_entropy(log_probs, jnp.asarray(mask))

    both = jax.value_and_grad(total, argnums=(0, 1))
    quiet = both(arrays["log_probs"], arrays["values"])
    loud = both(np.where(mask, arrays["log_probs"], -np.inf), np.where(mask, arrays["values"], 1e6))
    for a, b in zip(jax.tree.leaves(quiet), jax.tree.leaves(loud), strict=True):
        np.testing.assert_array_equal(a, b)


@few
@given(st.lists(st.tuples(st.floats(-30, 30, width=32), st.floats(-30, 30, width=32)), min_size=4, max_size=4))
def test_pairwise_is_bradley_terry(pairs):
    scores, weight = np.array(pairs, np.float32), np.array([1.0, 1.0, 0.0, 1.0], np.float32)
    loss, metrics = losses.pairwise_loss(jnp.asarray(scores), jnp.asarray(weight))
    margin = np.subtract(*scores.astype(np.float64).T)
    real = margin[weight > 0]
    assert float(loss) == pytest.approx(np.logaddexp(0, -real).sum(), rel=1e-5, abs=1e-5)
    assert float(metrics["accuracy"]) == sum(1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in real)
    assert float(metrics["margin"]) == pytest.approx(real.sum(), rel=1e-4, abs=1e-4)
