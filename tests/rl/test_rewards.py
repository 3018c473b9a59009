"""What responses are rewarded with, for any scores, lengths and masks. And the coefficient that steers the KL."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.rl.kl_penalty import next_kl_coef
from rlhf_jax.rl.rewards import shaped_scores, token_rewards
from tests import tiny

ROWS, LENGTH = 4, 6
few = settings(max_examples=40)
floats = st.floats(-5, 5, width=32, allow_subnormal=False)  # XLA may flush subnormal numbers to 0
numbers = st.lists(floats, min_size=ROWS, max_size=ROWS).map(lambda x: np.array(x, np.float32))
lengths = st.lists(st.integers(1, LENGTH), min_size=ROWS, max_size=ROWS).map(np.array)
flags = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(np.array)
penalties = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=(ROWS, LENGTH)))


@few
@given(numbers, flags, lengths)
def test_the_score_as_configured_is_the_score_itself(scores, finished, length):
    """Invariant 5: and the missing-EOS penalty touches truncated rows only."""
    shaped = np.asarray(shaped_scores(tiny.ALGORITHM, *map(jnp.asarray, (scores, finished, length))))
    np.testing.assert_array_equal(shaped[finished], scores[finished])
    np.testing.assert_allclose(shaped[~finished], scores[~finished] - 1.5, atol=1e-6)


@few
@given(numbers, flags, lengths)
def test_scores_are_scaled_then_clipped_then_penalised(scores, finished, length):
    changes = {"score_scale": 2.0, "score_clip": 3.0, "length_penalty": 0.25, "missing_eos_penalty": 10.0}
    shaped = shaped_scores(tiny.algorithm(**changes), *map(jnp.asarray, (scores, finished, length)))
    expected = [
        min(max(2 * score, -3), 3) - count / 4 - (0 if ended else 10)
        for score, ended, count in zip(scores, finished, length, strict=True)
    ]
    np.testing.assert_allclose(shaped, expected, atol=1e-5)


@few
@given(numbers, lengths, penalties)
def test_a_responses_rewards_add_up_to_its_score_less_its_penalties(scores, length, penalty):
    """Invariant 5, with the score on the last token and nothing past it."""
    mask = np.arange(LENGTH) < length[:, None]
    penalty = np.where(mask, penalty, 0.0)
    arrays = tuple(map(jnp.asarray, (scores, penalty, mask)))
    rewards = np.asarray(token_rewards(tiny.ALGORITHM, *arrays))
    np.testing.assert_allclose(rewards.sum(axis=-1), scores - penalty.sum(axis=-1), atol=1e-5)
    assert not rewards[~mask].any()
    last = np.arange(LENGTH) == length[:, None] - 1
    np.testing.assert_allclose(rewards[mask & ~last], -penalty[mask & ~last], atol=1e-6)
    in_loss = token_rewards(tiny.algorithm(kl_in="loss", kl_estimator="k2"), *arrays)
    np.testing.assert_allclose(in_loss, np.where(last, scores[:, None], 0.0), atol=1e-6)


@few
@given(st.floats(0, 50), st.floats(0.5, 20), st.floats(0.01, 2))
def test_the_coefficient_follows_the_error_and_stays_positive(kl, target, beta):
    choices = tiny.algorithm(kl_target=target, kl_horizon=100)
    after = float(next_kl_coef(choices, jnp.float32(beta), jnp.float32(kl), 40))
    error = min(max(kl / target - 1, -0.2), 0.2)
    assert after == pytest.approx(beta * (1 + error * 0.4), rel=1e-5)
    assert 0.9 * beta < after < 1.1 * beta
