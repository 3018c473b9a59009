import itertools

import numpy as np
import pytest
from scipy.stats import sem, t

from rlhf_jax.errors import UserError
from rlhf_jax.metrics import statistics
from rlhf_jax.metrics.statistics import (
    bootstrap_interval,
    mean_and_error,
    mean_and_interval,
    sign_flip_p_value,
    t_interval,
)


def test_mean_and_error():
    assert mean_and_error([1.0, 3.0]) == {"mean": 2.0, "standard_error": 1.0, "n": 2}
    with pytest.raises(UserError, match="no values"):
        mean_and_error([])


def test_mean_and_interval():
    values = [1.0, 3.0, 4.0]
    expected = {**mean_and_error(values), "interval": list(bootstrap_interval(values, seed=5))}
    assert mean_and_interval(values, seed=5) == expected
    assert mean_and_interval([1.0])["interval"] is None


def test_t_interval_is_students_and_stays_within_bounds():
    values = [0.30, 0.34, 0.31]
    plain = t.interval(0.95, 2, np.mean(values), sem(values))
    assert t_interval(values) == pytest.approx(plain)
    assert t_interval(values, 0, 1) == pytest.approx(plain, abs=0.003), "far from bounds they hardly matter"
    assert t_interval([50 + 9 * value for value in values], 0, 100)[0] == pytest.approx(50 + 9 * plain[0], abs=0.01)
    low, high = t_interval([97.0, 99.5, 100.0], 0, 100)
    assert 50 < low < 98.8 < high < 100
    mirrored = t_interval([3.0, 0.5, 0.0], 0, 100)
    assert [100 - mirrored[1], 100 - mirrored[0]] == pytest.approx([low, high])
    low, high = t_interval([0.0, 1.0, 5.0], 0)
    assert 0 < low < 2 < high
    assert low * high == pytest.approx(2 * 2), "symmetric in the logarithm"
    assert t_interval([1.0, 1.0], 0, 1) == (1.0, 1.0)
    with pytest.raises(UserError, match=r"1 value\(s\)"):
        t_interval([1.0])


def test_bootstrap_interval_is_near_the_normal_one_and_repeats():
    values = np.random.default_rng(3).normal(10, 2, 200)
    low, high = bootstrap_interval(values, resamples=2000)
    error = mean_and_error(values)["standard_error"]
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    assert bootstrap_interval(values, resamples=2000) == (low, high)
    assert bootstrap_interval(values, resamples=2000, seed=1) != (low, high)


def test_bootstrap_interval_narrows_with_less_confidence_and_holds_a_constant():
    values = np.arange(20.0)
    wide, narrow = (bootstrap_interval(values, confidence=confidence, resamples=500) for confidence in (0.95, 0.5))
    assert wide[0] < narrow[0] < 9.5 < narrow[1] < wide[1]
    assert bootstrap_interval([4.0, 4.0], resamples=10) == (4.0, 4.0)


@pytest.mark.parametrize(("values", "confidence"), [([], 0.95), ([1.0], 1.0), ([1.0], 95)])
def test_bootstrap_interval_refuses_bad_input(values, confidence):
    with pytest.raises(UserError, match="expected"):
        bootstrap_interval(values, confidence=confidence)


def test_two_samples_are_resampled_separately():
    a, b = (np.random.default_rng(seed).normal(mean, 2, 200) for seed, mean in ((0, 10), (1, 4)))
    low, high = bootstrap_interval(a, b, resamples=2000)
    error = np.hypot(*(mean_and_error(values)["standard_error"] for values in (a, b)))
    assert low == pytest.approx(a.mean() - b.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(a.mean() - b.mean() + 1.96 * error, abs=0.2 * error)


def test_results_do_not_depend_on_the_batches(monkeypatch):
    values = np.random.default_rng(0).normal(size=30)
    whole = bootstrap_interval(values, resamples=500), sign_flip_p_value(values, resamples=500)
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 70)
    assert (bootstrap_interval(values, resamples=500), sign_flip_p_value(values, resamples=500)) == whole


@pytest.mark.parametrize("values", [[1.0, 2.0, -0.5, 3.0, 0.0, 1.0, 1.5], [0.5, -0.5, 1.0, -1.0, 0.1]])
def test_sign_flips_agree_with_all_of_them(values):
    sums = [np.dot(signs, values) for signs in itertools.product([-1, 1], repeat=len(values))]
    exact = np.mean([abs(total) >= abs(sum(values)) - 1e-9 for total in sums])
    assert sign_flip_p_value(values) == pytest.approx(exact, abs=0.02)
    assert sign_flip_p_value(values) == sign_flip_p_value(np.negative(values))


def test_no_difference_has_p_1_and_a_clear_one_the_smallest():
    assert sign_flip_p_value([0.0, 0.0, 0.0]) == 1
    assert sign_flip_p_value(np.ones(100), resamples=999) == 1 / 1000
    with pytest.raises(UserError, match="no differences"):
        sign_flip_p_value([])
