import math

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.statistics import bootstrap_interval, mean_and_error
from rlhf_jax.evaluation.winrate import generalisation_gap, shares, win_rate


def test_a_published_win_rate():
    """AlpacaEval's alpaca-7b: 205 wins, 584 losses and 16 ties are published as 26.46 %."""
    result = win_rate([2] * 205 + [1] * 584 + [0] * 16)
    assert round(result["win_rate"], 2) == 26.46
    assert (result["wins"], result["losses"], result["ties"], result["n"]) == (205, 584, 16, 805)
    p, squares = 213 / 805, (205 + 16 / 4) / 805
    assert result["standard_error"] == pytest.approx(100 * math.sqrt((squares - p * p) / 804))


def test_both_codes_of_a_tie_and_weights():
    assert win_rate([0, 1, 2]) == win_rate([1.5, 1, 2])
    weights = win_rate([1.25, 1.75, 1.9])
    assert weights["win_rate"] == pytest.approx(100 * (0.25 + 0.75 + 0.9) / 3)
    assert (weights["wins"], weights["losses"], weights["ties"]) == (2, 1, 0)


def test_swapping_the_sides_mirrors_the_win_rate():
    preferences = np.random.default_rng(0).choice([1, 1.5, 2], 50)
    there, back = win_rate(preferences), win_rate(3 - preferences)
    assert there["win_rate"] + back["win_rate"] == pytest.approx(100)
    assert there["standard_error"] == pytest.approx(back["standard_error"])
    assert (there["wins"], there["losses"], there["ties"]) == (back["losses"], back["wins"], back["ties"])


def test_one_comparison_has_no_error():
    assert win_rate([2])["standard_error"] is None
    assert generalisation_gap([2], [1, 2]) == {"gap": 50.0, "standard_error": None}


@pytest.mark.parametrize("bad", [-1, 0.5, 2.1, math.nan, None])
def test_no_verdict_is_dropped(bad):
    with pytest.raises(UserError, match="Preference 1 is"):
        win_rate([2, bad, 1])


def test_no_preferences_are_refused():
    with pytest.raises(UserError, match="no preferences"):
        shares([])


def test_the_gap_is_id_minus_ood_and_its_variance_the_sum():
    inside, outside = [2, 2, 1, 2], [1, 2, 1, 1]
    result = generalisation_gap(inside, outside)
    assert result["gap"] == 50.0
    variance = win_rate(inside)["standard_error"] ** 2 + win_rate(outside)["standard_error"] ** 2
    assert result["standard_error"] == pytest.approx(math.sqrt(variance))


def test_mean_and_error():
    assert mean_and_error([1.0, 3.0]) == {"mean": 2.0, "standard_error": 1.0, "n": 2}
    with pytest.raises(UserError, match="no values"):
        mean_and_error([])


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
    wide, narrow = (bootstrap_interval(values, confidence, 500) for confidence in (0.95, 0.5))
    assert wide[0] < narrow[0] < 9.5 < narrow[1] < wide[1]
    assert bootstrap_interval([4.0, 4.0], resamples=10) == (4.0, 4.0)


@pytest.mark.parametrize(("values", "confidence"), [([], 0.95), ([1.0], 1.0), ([1.0], 95)])
def test_bootstrap_interval_refuses_bad_input(values, confidence):
    with pytest.raises(UserError, match="expected"):
        bootstrap_interval(values, confidence)
