"""Best-of-n from a pool, against every subset (invariant 16)."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.best_of_n import best_of_n_estimates, best_of_n_kl, best_weights, simulated_best

POOLS = st.lists(st.integers(-3, 3), min_size=1, max_size=7)


@given(POOLS, st.data())
@settings(max_examples=60)
def test_weights_are_those_of_all_subsets(scores, data):
    """Ties included: among equals of a subset, each is as good an answer as the other."""
    n = data.draw(st.integers(1, len(scores)))
    expected = np.zeros(len(scores))
    subsets = list(itertools.combinations(range(len(scores)), n))
    for subset in subsets:
        top = max(scores[i] for i in subset)
        equals = [i for i in range(len(scores)) if scores[i] == top]
        expected[equals] += 1 / len(equals) / len(subsets)
    np.testing.assert_allclose(best_weights(np.array(scores, float), n), expected, atol=1e-12)


def test_estimates_of_another_value_than_the_one_that_chooses():
    rng = np.random.default_rng(0)
    scores, values = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    estimates = best_of_n_estimates(scores, values)
    assert [e["n"] for e in estimates] == [1, 2, 3, 4, 5]
    for estimate in estimates:
        subsets = list(itertools.combinations(range(5), estimate["n"]))
        rows = [
            np.mean([values[b, max(subset, key=lambda i, b=b: scores[b, i])] for subset in subsets]) for b in range(3)
        ]
        assert estimate["mean"] == pytest.approx(np.mean(rows))
        assert estimate["standard_error"] == pytest.approx(np.std(rows, ddof=1) / math.sqrt(3))
    assert estimates[0]["mean"] == pytest.approx(values.mean()), "best of one is plain sampling"
    assert estimates[0]["kl"] == 0.0
    assert best_of_n_estimates(scores)[-1]["mean"] == pytest.approx(scores.max(axis=1).mean())


def test_a_large_pool_does_not_overflow():
    scores = np.arange(4000.0)
    assert best_weights(scores, 1000).sum() == pytest.approx(1.0)
    assert best_weights(scores, 4000)[-1] == pytest.approx(1.0)


def test_kl_is_the_exact_one_of_distinct_outcomes():
    """By numerical integration of the best-of-n density over the policy's quantiles."""
    quantiles = (np.arange(1_000_000) + 0.5) / 1_000_000
    for n in (2, 16):
        density = n * quantiles ** (n - 1)
        assert best_of_n_kl(n) == pytest.approx(np.mean(density * np.log(density)), abs=1e-4)


def test_simulated_sets_choose_as_best_of_n_would():
    """The share of wins of each sample is its weight. A set never holds a sample twice. The seed decides."""
    scores = list(np.random.default_rng(1).normal(size=12))
    chosen = simulated_best(scores, 3, 40_000, np.random.default_rng(2))
    share = np.bincount(chosen, minlength=12) / len(chosen)
    np.testing.assert_allclose(share, best_weights(np.array(scores), 3), atol=0.01)
    assert {np.argsort(scores)[0], np.argsort(scores)[1]}.isdisjoint(chosen), "never the best of three"
    assert chosen[:9] == simulated_best(scores, 3, 40_000, np.random.default_rng(2))[:9]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_weights(np.zeros(3), 4), "best of 4 cannot be estimated from 3 samples, expected 1 to 3"),
        (lambda: simulated_best([0.0] * 11, 3, 2, np.random.default_rng(0)), "a pool of 11 is too small .*12 or more"),
        (lambda: best_of_n_estimates(np.zeros((2, 3)), np.zeros((2, 2))), r"expected one \[B, N\]"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
