"""Arithmetic on tokens against float64 oracles, and the properties that hold for any masks and any numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.models.logprobs import CHUNK, MASKED, keep_largest, token_log_probs
from rlhf_jax.models.sequences import last_index
from rlhf_jax.rl import masked
from rlhf_jax.rl.advantages import explained_variance, gae
from rlhf_jax.rl.kl_penalty import kl_estimate
from rlhf_jax.rl.rewards import place_score
from tests import numpy_llama

RESPONSES, LENGTH = 4, 6  # one shape for the property tests: eager operations are compiled once for each

few = settings(max_examples=40)


def reals(low: float, high: float, count: int = RESPONSES * LENGTH) -> st.SearchStrategy[np.ndarray]:
    floats = st.lists(st.floats(low, high, width=32), min_size=count, max_size=count)
    return floats.map(lambda values: np.array(values, np.float32).reshape(-1, LENGTH))


# Right-padded, as responses are. Empty and full ones included.
masks = st.lists(st.integers(0, LENGTH), min_size=RESPONSES, max_size=RESPONSES).map(
    lambda lengths: np.arange(LENGTH) < np.array(lengths)[:, None]
)


@pytest.mark.parametrize("count", [5, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_log_probs_are_those_of_the_whole_softmax(count, temperature):
    """Values, entropies and gradients, for counts below, at and past a chunk that do not divide."""
    rng = np.random.default_rng(count)
    hidden, table = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((1, count, 8), (37, 8)))
    tokens = jnp.asarray(rng.integers(0, 37, (1, count)), jnp.int32)
    pulls = jnp.asarray(rng.normal(size=(2, 1, count)), jnp.float32)

    def whole(hidden, table):
        log_probs = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", hidden, table) / temperature)
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
        return jnp.stack([jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0], entropy])

    def chunked(hidden, table):
        return jnp.stack(token_log_probs(hidden, table, tokens, temperature))

    def with_gradients(function):
        def pulled(*arguments):
            out = function(*arguments)
            return jnp.sum(out * pulls), out

        return jax.jit(jax.grad(pulled, argnums=(0, 1), has_aux=True))(hidden, table)

    for actual, expected in zip(*map(jax.tree.leaves, map(with_gradients, (chunked, whole))), strict=True):
        np.testing.assert_allclose(actual, expected, atol=3e-5 * max(1.0, float(jnp.abs(expected).max())))
    assert token_log_probs(hidden, table, tokens)[0].dtype == jnp.float32


@few
@given(reals(-100, 100), masks)
def test_masked_mean_and_whitening_count_tokens(x, mask):
    """Invariant 6: cells outside the mask weigh nothing, whatever they hold."""
    real = x[mask].astype(np.float64)
    other = np.where(mask, x, 1e3).astype(np.float32)
    cells = jnp.asarray(mask)
    np.testing.assert_allclose(masked.mean(jnp.asarray(x), cells), real.mean() if real.size else 0.0, atol=1e-4)
    white = np.asarray(masked.whiten(jnp.asarray(x), cells))
    assert not white[~mask].any()
    np.testing.assert_array_equal(white, masked.whiten(jnp.asarray(other), cells))
    if real.size and real.std() > 0.1:
        np.testing.assert_allclose(white[mask], (real - real.mean()) / real.std(), atol=1e-3)


def test_the_largest_logits_are_kept_and_ties_with_them():
    logits = np.array([[3.0, 1.0, 2.0, 1.0, -5.0], [0.0, 0.0, 0.0, 0.0, 0.0], [MASKED, 4.0, 3.0, 2.0, 1.0]])
    kept = np.asarray(keep_largest(jnp.asarray(logits, jnp.float32), 3))
    expected = np.array([[1, 1, 1, 1, 0], [1] * 5, [0, 1, 1, 1, 0]], bool)
    np.testing.assert_array_equal(kept, np.where(expected, logits, MASKED).astype(np.float32))


@few
@given(reals(-8, 0), reals(-8, 0))
def test_kl_estimators_equal_their_formulas(log_prob, reference):
    """Invariant 7, first half."""
    p, q = np.exp(log_prob.astype(np.float64)), np.exp(reference.astype(np.float64))
    k1, k2, k3 = (
        np.asarray(kl_estimate(jnp.asarray(log_prob), jnp.asarray(reference), name)) for name in ("k1", "k2", "k3")
    )
    np.testing.assert_allclose(k1, np.log(p / q), atol=1e-5)
    np.testing.assert_allclose(k2, np.log(p / q) ** 2 / 2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(k3, q / p - 1 - np.log(q / p), rtol=1e-5, atol=1e-5)
    assert (k3 >= 0).all()


def test_k1_and_k3_agree_in_expectation():
    """Invariant 7, second half: their expectation under the policy is the divergence itself."""
    rng = np.random.default_rng(0)
    policy, reference = numpy_llama.softmax(rng.normal(size=(2, 50)))
    divergence = np.sum(policy * np.log(policy / reference))
    for name in ("k1", "k3"):
        estimates = kl_estimate(jnp.log(policy), jnp.log(reference), name)
        assert float(np.sum(policy * np.asarray(estimates))) == pytest.approx(divergence, abs=1e-6)
    assert (
        abs(float(np.sum(policy * np.asarray(kl_estimate(jnp.log(policy), jnp.log(reference), "k2"))) - divergence))
        > 0.01
    )


@few
@given(reals(-5, 5, count=LENGTH), masks)
def test_the_score_lands_on_the_last_real_token(score, mask):
    """Invariant 5: on the EOS, or where the limit cut. In floating point. Nowhere in an empty row."""
    score = score[0, :RESPONSES]
    placed = np.asarray(place_score(jnp.asarray(score), jnp.asarray(mask)))
    assert placed.dtype == np.float32
    for row, length in enumerate(mask.sum(axis=-1)):
        expected = np.zeros(LENGTH, np.float32)
        if length:
            expected[length - 1] = score[row]
        np.testing.assert_array_equal(placed[row], expected)
    np.testing.assert_array_equal(last_index(mask), np.maximum(mask.sum(axis=-1) - 1, 0))


def test_a_score_below_one_is_not_rounded_away():
    """Invariant 5 where a published system failed: 0.7 became 0 in an integer array."""
    assert place_score(jnp.array([0.7]), jnp.ones((1, 3), bool)).tolist() == [[0.0, 0.0, pytest.approx(0.7)]]


def textbook_advantages(rewards, values, length, gamma, gae_lambda):
    """`A_t = sum_l (gamma lambda)^l delta_{t+l}`, each sum written out, in float64."""
    rewards, values = rewards[:length].astype(np.float64), values[:length].astype(np.float64)
    following = np.append(values[1:], 0.0)
    deltas = rewards + gamma * following - values
    return [sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]


@few
@given(reals(-3, 3), reals(-3, 3), masks, st.sampled_from([(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)]))
def test_gae_equals_the_textbook_sum(rewards, values, mask, settings):
    """Invariant 7: any lengths, and whatever rewards and values hold after a response's end."""
    advantages, returns = map(np.asarray, gae(*map(jnp.asarray, (rewards, values, mask)), *settings))
    expected = np.zeros((RESPONSES, LENGTH))
    for row, length in enumerate(mask.sum(axis=-1)):
        expected[row, :length] = textbook_advantages(rewards[row], values[row], length, *settings)
    np.testing.assert_allclose(advantages, expected, atol=2e-5)
    np.testing.assert_allclose(returns, np.where(mask, expected + values, 0.0), atol=2e-5)


def test_explained_variance():
    returns = jnp.array([[1.0, 2.0, 3.0, 99.0]])
    mask = jnp.array([[True, True, True, False]])
    assert float(explained_variance(returns, returns, mask)) == 1.0
    assert float(explained_variance(jnp.full((1, 4), 5.0), returns, mask)) == pytest.approx(0.0)
    assert float(explained_variance(jnp.array([[1.0, 1.0, 1.0, 0.0]]) - returns, returns, mask)) == pytest.approx(-3.0)
