import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.length_control import length_controlled_win_rate
from rlhf_jax.metrics.winrate import win_rate


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simulated(seed: int, n: int, model: float, length: float, difficulty: float = 0.0, shift: float = 100.0):
    """Preferences of a judge that follows the model of the docstring, lengths and difficulties."""
    rng = np.random.default_rng(seed)
    reference_lengths = rng.integers(100, 900, n)
    lengths = np.maximum(reference_lengths + rng.normal(shift, 200, n).round(), 1)
    difficulties = rng.normal(0, 1, n)
    delta = lengths - reference_lengths
    logits = model + length * np.tanh(delta / delta.std(ddof=1)) + difficulty * difficulties
    return 1 + (rng.random(n) < sigmoid(logits)), lengths, reference_lengths, difficulties


def test_it_undoes_a_judge_that_likes_length():
    preferences, lengths, reference_lengths, _ = simulated(0, 4000, model=-0.5, length=2.0)
    result = length_controlled_win_rate(preferences, lengths, reference_lengths)
    truth = 100 * sigmoid(-0.5)
    assert result["win_rate"] == pytest.approx(truth, abs=3 * result["standard_error"])
    assert result["standard_error"] < 2
    assert win_rate(preferences)["win_rate"] > truth + 8
    assert result["coefficients"] == pytest.approx({"model": -0.5, "length": 2.0}, abs=0.25)
    assert result["n"] == 4000


def test_with_difficulties_it_is_the_mean_over_instructions():
    preferences, lengths, reference_lengths, difficulties = simulated(1, 4000, model=0.8, length=1.0, difficulty=2.0)
    result = length_controlled_win_rate(preferences, lengths, reference_lengths, difficulties)
    truth = 100 * sigmoid(0.8 + 2.0 * difficulties).mean()
    assert result["win_rate"] == pytest.approx(truth, abs=3 * result["standard_error"])
    assert list(result["coefficients"]) == ["model", "length", "difficulty"]
    assert result["coefficients"]["difficulty"] == pytest.approx(2.0, abs=0.3)


def test_the_fit_is_the_minimum_of_the_penalised_likelihood():
    """Fractional labels (ties and weights) included, by a general optimiser in float64."""
    preferences, lengths, reference_lengths, difficulties = simulated(2, 120, 0.3, 1.0, 0.5)
    preferences = np.where(np.arange(120) % 5 == 0, 1.5, np.where(np.arange(120) % 7 == 0, 1.2, preferences))
    delta = lengths - reference_lengths
    features = np.stack([np.ones(120), np.tanh(delta / delta.std(ddof=1)), difficulties], axis=1)
    won = preferences - 1

    def objective(coefficients):
        logits = features @ coefficients
        return (np.logaddexp(0, logits) - won * logits).sum() + coefficients @ coefficients / 200

    best = minimize(objective, np.zeros(3), tol=1e-12).x
    result = length_controlled_win_rate(preferences, lengths, reference_lengths, difficulties)
    assert list(result["coefficients"].values()) == pytest.approx(best.tolist(), abs=1e-4)
    expected = 100 * sigmoid(features[:, [0, 2]] @ best[[0, 2]]).mean()
    assert result["win_rate"] == pytest.approx(expected, abs=1e-2)


def test_the_error_is_that_of_a_bootstrap():
    preferences, lengths, reference_lengths, difficulties = simulated(3, 250, 0.2, 1.5, 0.7)
    result = length_controlled_win_rate(preferences, lengths, reference_lengths, difficulties)
    rng, rates = np.random.default_rng(0), []
    for _ in range(200):
        rows = rng.integers(250, size=250)
        drawn = [values[rows] for values in (preferences, lengths, reference_lengths, difficulties)]
        rates.append(length_controlled_win_rate(*drawn)["win_rate"])
    assert result["standard_error"] == pytest.approx(np.std(rates), rel=0.2)


def test_a_model_against_itself_has_50():
    result = length_controlled_win_rate([0] * 10, range(10), range(10))
    assert result["win_rate"] == pytest.approx(50, abs=1e-9)
    assert result["standard_error"] == pytest.approx(0, abs=1e-9)


def test_where_all_lengths_are_equal_it_is_the_win_rate():
    preferences = [1, 2, 2, 1.5, 2, 2, 1, 2] * 20
    result, plain = length_controlled_win_rate(preferences, [7] * 160, [7] * 160), win_rate(preferences)
    assert result["win_rate"] == pytest.approx(plain["win_rate"], abs=0.01)
    assert result["standard_error"] == pytest.approx(plain["standard_error"], rel=1e-3)


def test_swapping_the_sides_mirrors_it():
    preferences, lengths, reference_lengths, difficulties = simulated(4, 100, 0.3, 1.0, 0.5)
    there = length_controlled_win_rate(preferences, lengths, reference_lengths, difficulties)
    back = length_controlled_win_rate(3 - preferences, reference_lengths, lengths, difficulties)
    assert there["win_rate"] + back["win_rate"] == pytest.approx(100, abs=1e-4)
    assert there["coefficients"]["length"] == pytest.approx(back["coefficients"]["length"], abs=1e-6)


def test_the_unit_of_length_does_not_matter():
    preferences, lengths, reference_lengths, _ = simulated(5, 100, 0.3, 1.0)
    characters = length_controlled_win_rate(preferences, lengths, reference_lengths)
    tokens = length_controlled_win_rate(preferences, lengths / 4, reference_lengths / 4)
    assert characters == tokens


def test_a_model_that_won_everything_stays_finite():
    result = length_controlled_win_rate([2] * 50, np.arange(50), np.arange(50)[::-1])
    assert 99 < result["win_rate"] < 100
    assert np.isfinite(list(result["coefficients"].values())).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([2], [1], [2]), "There is 1 preference, expected two or more"),
        (([2, 1], [1], [2, 3]), r"lengths has 1 value\(s\), expected one per preference, 2"),
        (([2, 1], [1, 2], [2, 3, 4]), r"reference_lengths has 3 value\(s\)"),
        (([2, 1], [1, 2], [2, 1], [0.5]), r"difficulties has 1 value\(s\)"),
        (([2, 1], [1, np.nan], [2, 1]), "lengths has a value that is not finite"),
        (([2, 1, 2], [15, 25, 35], [10, 20, 30]), "differ from the reference's by the same length, 5"),
        (([2, None], [1, 2], [2, 1]), "Preference 1 is None"),
    ],
)
def test_bad_input_is_a_sentence(arguments, message):
    with pytest.raises(UserError, match=message):
        length_controlled_win_rate(*arguments)
