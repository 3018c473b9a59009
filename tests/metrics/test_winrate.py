import math

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.statistics import bootstrap_interval, sign_flip_p_value
from rlhf_jax.metrics.winrate import (
    generalisation_gap,
    paired_difference,
    preferences_by_prompt,
    win_fractions,
    win_rate,
)


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
    assert generalisation_gap([2], [1, 2]) == {"gap": 50.0, "standard_error": None, "interval": None}


@pytest.mark.parametrize("bad", [-1, 0.5, 2.1, math.nan, None, True, "2"])
def test_no_verdict_is_dropped_and_none_are_refused(bad):
    with pytest.raises(UserError, match="Preference 1 is"):
        win_rate([2, bad, 1])
    with pytest.raises(UserError, match="no preferences"):
        win_fractions([])


def test_the_gap_is_id_minus_ood_and_its_variance_the_sum():
    inside, outside = [2, 2, 1, 2], [1, 2, 1, 1]
    result = generalisation_gap(inside, outside)
    assert result["gap"] == 50.0
    variance = win_rate(inside)["standard_error"] ** 2 + win_rate(outside)["standard_error"] ** 2
    assert result["standard_error"] == pytest.approx(math.sqrt(variance))


def test_the_gaps_interval_is_near_the_normal_one_and_repeats():
    rng = np.random.default_rng(1)
    inside, outside = rng.choice([1, 2], 300, p=[0.3, 0.7]), rng.choice([1, 1.5, 2], 200)
    result = generalisation_gap(inside, outside)
    error = result["standard_error"]
    expected = [result["gap"] - 1.96 * error, result["gap"] + 1.96 * error]
    assert result["interval"] == pytest.approx(expected, abs=0.2 * error)
    assert generalisation_gap(inside, outside) == result
    mirrored = generalisation_gap(outside, inside)
    assert mirrored["gap"] == -result["gap"]
    narrow = generalisation_gap(inside, outside, confidence=0.5)["interval"]
    assert result["interval"][0] < narrow[0] < narrow[1] < result["interval"][1]


def test_a_paired_difference_is_that_of_the_win_rates_with_the_error_of_the_pairs():
    rng = np.random.default_rng(2)
    first = {f"p{i}": float(value) for i, value in enumerate(rng.choice([1, 1.5, 2], 60))}
    second = {prompt: value if rng.random() < 0.8 else 3 - value for prompt, value in reversed(first.items())}
    result = paired_difference(first, second)
    differences = [100 * (first[prompt] - second[prompt]) for prompt in first]
    rates = [win_rate(list(preferences.values()))["win_rate"] for preferences in (first, second)]
    assert result["difference"] == pytest.approx(rates[0] - rates[1])
    assert result["standard_error"] == pytest.approx(np.std(differences, ddof=1) / math.sqrt(60))
    assert result["interval"] == bootstrap_interval(differences)
    assert result["p_value"] == sign_flip_p_value(differences)
    assert result["n"] == 60


def test_pairs_find_what_two_samples_would_miss_and_need_the_same_prompts():
    """One model is better on one prompt in eight and equal elsewhere."""
    first = {f"p{i}": 1.0 + (i % 2) for i in range(80)}
    second = {f"p{i}": 1.0 + (i % 2 and i % 16 != 1) for i in range(80)}
    result = paired_difference(first, second)
    unpaired = math.hypot(*(win_rate(list(p.values()))["standard_error"] for p in (first, second)))
    assert result["difference"] == pytest.approx(6.25)
    assert result["standard_error"] < unpaired / 2
    assert paired_difference(first, first)["p_value"] == 1
    with pytest.raises(UserError, match=r"1 prompt\(s\) are judged for only one of the two models, the first is 'b'"):
        paired_difference({"a": 1, "b": 2}, {"a": 1})


def judgement(id: str, model: str = "ppo", against: str = "reference", split: str = "id_test", preference: float = 2):
    return {"id": id, "model": model, "against": against, "split": split, "preference": preference}


def test_preferences_of_one_comparison():
    judgements = [
        judgement("a"),
        judgement("a", against="sft", preference=1),
        judgement("a", model="sft", preference=1),
        judgement("b", preference=1.5),
        judgement("c", split="ood_test", preference=1),
    ]
    assert preferences_by_prompt(judgements, "ppo", "reference", "id_test") == {"a": 2, "b": 1.5}
    with pytest.raises(UserError, match="no judgements of bon against reference on id_test"):
        preferences_by_prompt(judgements, "bon", "reference", "id_test")
    with pytest.raises(UserError, match="ppo against reference is judged twice on 'a'"):
        preferences_by_prompt([*judgements, judgement("a")], "ppo", "reference", "id_test")
