"""Where values start, and what the gradient of a KL penalty in the loss is in expectation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import heads
from rlhf_jax.models.transformer import merge
from rlhf_jax.parallel.jit import jit
from rlhf_jax.rl.kl_penalty import kl_loss
from rlhf_jax.rl.ppo_loss import policy_and_value, start_value
from tests import numpy_llama, tiny

MEAN, DEVIATION = 0.4, 1.7
BATCH = tiny.sequences([7, 1], [[5, 8], [1, 3]], prompt=9, response=8)


def exact_gradients(logits, reference):
    """Gradients by logits of KL(policy || reference) and of KL(reference || policy), over all tokens, in float64."""
    p, q = numpy_llama.softmax(logits), numpy_llama.softmax(reference)
    difference = np.log(p / q)
    return p * (difference - np.sum(p * difference)), p - q


@pytest.mark.parametrize(("estimator", "gradient"), [("k2", "KL"), ("k3", "reverse")])
def test_the_penalty_pulls_as_its_divergence_does(estimator, gradient):
    """In expectation over the policy's own samples, which is a sum over all tokens here (docs/method.md)."""
    rng = np.random.default_rng(0)
    logits, reference = rng.normal(size=(2, 9))
    weights = jnp.asarray(numpy_llama.softmax(logits))
    expected = jnp.log(numpy_llama.softmax(reference))

    def penalty(logits, estimator):
        """Each token as often as the policy draws it, with the number of draws held fixed."""
        log_probs = jax.nn.log_softmax(logits)
        each = [kl_loss(log_probs[i], expected[i], jnp.bool(True), estimator) for i in range(9)]
        return jnp.sum(weights * jnp.stack(each))

    found = {name: np.asarray(jax.grad(penalty)(jnp.asarray(logits), name)) for name in ("k1", estimator)}
    forward, reverse = exact_gradients(logits, reference)
    np.testing.assert_allclose(found[estimator], forward if gradient == "KL" else reverse, atol=1e-6)
    np.testing.assert_allclose(found["k1"], 0.0, atol=1e-6)
    assert np.abs(forward - reverse).max() > 0.05


@pytest.fixture(scope="module")
def setting():
    """`(model, trunk, policy's top, reward model's top, edge)`."""
    model, params = tiny.network(layers=2)
    trunk, top = model.split(params)
    reward = tiny.with_role(tiny.nudged(top, 0.05), "reward")
    return model, trunk, top, reward, jit(model.trunk)(trunk, BATCH)


def values(setting, **changes):
    """`(value function, log-probs, values)` before the first step."""
    model, trunk, top, reward, edge = setting
    value = start_value(tiny.algorithm(**changes), top, reward, MEAN, DEVIATION, jax.random.key(0))
    program = jit(lambda value, batch: policy_and_value(model, trunk, {**top, "value": value}, batch, edge, 0.7))
    log_probs, _, found = program(value, BATCH)
    return value, log_probs, found


def test_a_separate_value_function_starts_as_the_reward_model(setting):
    """Its value before a token is the normalised, scaled score of the response so far: each prefix is scored."""
    model, trunk, _, reward, edge = setting
    _, log_probs, found = values(setting, value_model="separate", value_start="reward", score_scale=2.0)
    score = jit(lambda batch: heads.score_edge(model, trunk, reward, batch, model.trunk(trunk, batch)))
    for length in range(1, 8):
        prefix = BATCH.replace(response_mask=BATCH.response_mask & (np.arange(8) < length))
        expected = 2.0 * (score(prefix) - MEAN) / DEVIATION
        going_on = BATCH.response_mask[:, :, length]
        np.testing.assert_allclose(found[:, :, length][going_on], expected[going_on], atol=1e-5)
    _, plain, _ = values(setting)
    np.testing.assert_array_equal(log_probs, plain)  # the policy is where it was


def test_a_head_on_the_policy_starts_at_zero_at_random_or_as_the_reward_models(setting):
    model, trunk, top, reward, edge = setting
    hidden = np.asarray(jit(model.top)(merge(trunk, top), BATCH, edge))[:, :, :-1]
    value, _, found = values(setting, value_start="zero")
    assert set(value) == {"kernel"} and not np.asarray(found).any()
    value, _, found = values(setting, value_start="random")
    assert set(value) == {"kernel"} and float(jnp.std(value["kernel"])) == pytest.approx(33**-0.5, rel=0.4)
    np.testing.assert_allclose(found, hidden @ np.asarray(value["kernel"]), atol=1e-5)
    value, _, found = values(setting, value_start="reward")
    expected = (hidden @ np.asarray(reward["reward"]["kernel"]) - MEAN) / DEVIATION
    np.testing.assert_allclose(found, expected, atol=1e-5)
