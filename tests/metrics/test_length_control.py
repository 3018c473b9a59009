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


@pytest.mark.parametrize(
    ("preferences", "differences", "reason"),
    [
        ([1, 1, 1, 1], [-50, -58, -46, -69], "Every output is shorter than the reference's, by 46 or more"),
        ([1, 2, 1, 2], [-50, -58, -46, -69], "Every output is shorter than the reference's, by 46 or more"),
        ([2, 1, 1.5], [5, 5, 5], "Every output is longer than the reference's, by 5 or more"),
        ([2] * 6, [-2, 1, 4, -5, 0, 3], "The outcome of 6 comparisons is separable: model and length predict"),
        ([1, 2, 2, 1], [-2, 1, 4, -5], "separable"),
        ([2, 1, 1, 2, 2], [-2, 1, 4, -5, 0], "separable"),
        ([2, 1, 1, 1], [0, 0, 1, 2], "separable"),
        ([2, 2, 1.5, 2], [0, 1, 0, 2], "separable"),
    ],
)
def test_without_information_there_is_no_answer(preferences, differences, reason):
    lengths = [100 + difference for difference in differences]
    with pytest.raises(UserError, match=reason):
        length_controlled_win_rate(preferences, lengths, [100] * len(lengths))


def test_difficulties_may_separate_what_lengths_do_not():
    preferences, lengths, references = [2, 1, 2, 1, 2, 1], [9, 8, 1, 2, 5, 5], [5] * 6
    assert length_controlled_win_rate(preferences, lengths, references)["interval"][0] > 0
    with pytest.raises(UserError, match="separable: model and length and difficulty"):
        length_controlled_win_rate(preferences, lengths, references, [3, 1, 4, 1, 5, 2])


# Difference of lengths in standard deviations, effect of the model and of length, outputs per prompt (several make
# fractions), share of ties.
CASES = {
    "balanced": (0.0, 0.0, 1.0, 1, 0.0),
    "rarely wins": (0.0, -1.5, 1.0, 1, 0.0),
    "nearly always wins": (0.0, 2.5, 0.0, 1, 0.0),
    "mostly longer": (1.0, 0.0, 1.0, 1, 0.0),
    "nearly always longer": (2.0, 0.0, 1.0, 1, 0.0),
    "longer and better for it": (2.0, -1.0, 2.0, 1, 0.0),
    "fractions": (1.0, -2.0, 1.0, 16, 0.0),
    "ties": (1.5, 0.5, 1.0, 1, 0.2),
}


def coverage(case: str, n: int, sets: int) -> float:
    """The share of intervals that cover the truth, among sets that have an answer."""
    shift, model, length, outputs, ties = CASES[case]
    covered = []
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        differences = rng.normal(shift, 1, n)
        chance = sigmoid(model + length * np.tanh(differences / differences.std(ddof=1)))
        won = np.where(rng.random(n) < ties, 0.5, rng.binomial(outputs, chance) / outputs)
        try:
            low, high = length_controlled_win_rate(1 + won, differences, np.zeros(n))["interval"]
        except UserError:
            continue
        assert 0 <= low < high <= 100
        covered.append(low <= 100 * sigmoid(model) <= high)
    return np.mean(covered) if covered else 1.0


@pytest.mark.parametrize("case", ["nearly always wins", "nearly always longer", "fractions"])
def test_the_interval_covers(case):
    assert coverage(case, 48, 60) >= 0.9


@pytest.mark.soak
@pytest.mark.parametrize("n", [16, 48, 200, 500])
@pytest.mark.parametrize("case", CASES)
def test_the_interval_covers_wherever_there_is_an_answer(case, n):
    assert coverage(case, n, 400) >= 0.92  # 0.95 less three standard errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([2], [1], [2]), "There is 1 preference, expected two or more"),
        (([2, 1], [1], [2, 3]), r"lengths has 1 value\(s\), expected one per preference, 2"),
        (([2, 1], [1, 2], [2, 3, 4]), r"reference_lengths has 3 value\(s\)"),
        (([2, 1], [1, 2], [2, 1], [0.5]), r"difficulties has 1 value\(s\)"),
        (([2, 1], [1, np.nan], [2, 1]), "lengths has a value that is not finite"),
        (([2, None], [1, 2], [2, 1]), "Preference 1 is None"),
    ],
)
def test_bad_input_is_a_sentence(arguments, message):
    with pytest.raises(UserError, match=message):
        length_controlled_win_rate(*arguments)
