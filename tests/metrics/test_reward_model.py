"""What a reward model's scores are worth: accuracy, calibration and agreement, by hand and by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.reward_model import accuracy, accuracy_by_margin, agreement_matrix, calibration


def pairs(differences: list[float]) -> np.ndarray:
    """Scores `[pairs, 2]` of given differences, at levels that must not matter."""
    level = np.linspace(-3, 4, len(differences))
    return np.stack([level + differences, level], axis=1)


def test_accuracy_counts_a_tie_as_a_half():
    measured = accuracy(np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 3.0], [5.0, 1.0]]))
    assert measured["accuracy"] == 0.625
    assert measured["accuracy_standard_error"] == pytest.approx((0.625 * 0.375 / 4) ** 0.5)
    assert measured["loss"] == pytest.approx(np.mean(np.log1p(np.exp([-1.0, 0.0, 3.0, -4.0]))))


def test_calibration_by_hand():
    """Confidences 0.95, 0.95, 0.95 and 0.62 of which two of three and none are right."""
    sure, unsure = np.log([0.95 / 0.05, 0.62 / 0.38])
    found = calibration(pairs([sure, sure, -sure, -unsure]), bins=5)
    low, high = found["bins"]
    assert (low["low"], low["high"], low["n"]) == (pytest.approx(0.6), pytest.approx(0.7), 1)
    assert (low["confidence"], low["accuracy"]) == (pytest.approx(0.62), 0.0)
    assert (high["low"], high["high"], high["n"]) == (pytest.approx(0.9), 1.0, 3)
    assert (high["confidence"], high["accuracy"]) == (pytest.approx(0.95), pytest.approx(2 / 3))
    assert found["expected_calibration_error"] == pytest.approx((1 * 0.62 + 3 * (0.95 - 2 / 3)) / 4)


def test_a_model_that_knows_the_odds_is_calibrated_and_an_overconfident_one_is_not():
    """Labels drawn by Bradley-Terry from the scores themselves, and the same scores three times as far apart."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1.5, 20_000)
    observed = np.where(rng.random(20_000) < 1 / (1 + np.exp(-truth)), truth, -truth)
    errors = [calibration(pairs(list(scale * observed)))["expected_calibration_error"] for scale in (1, 3)]
    assert errors[0] < 0.015 < 0.1 < errors[1]


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=40), st.integers(1, 12))
def test_every_pair_is_in_one_bin_and_the_bins_add_up(differences, bins):
    scores = np.stack([np.array(differences), np.zeros(len(differences))], axis=1)
    found = calibration(scores, bins)
    assert sum(entry["n"] for entry in found["bins"]) == len(differences)
    right = sum(entry["accuracy"] * entry["n"] for entry in found["bins"]) / len(differences)
    assert right == pytest.approx(accuracy(scores)["accuracy"])
    assert all(entry["low"] - 1e-12 <= entry["confidence"] <= entry["high"] + 1e-12 for entry in found["bins"])


def test_accuracy_rises_with_the_margin_it_is_asked_by():
    margins = [0.1, 0.4, 0.2, 0.3, 0.9, 0.8, 0.7, 0.6]
    found = accuracy_by_margin(pairs([-1, -1, -1, 1, 1, 1, 0, 1]), margins, bins=2)
    assert [(entry["mean"], entry["n"]) for entry in found] == [(0.25, 4), (0.875, 4)]
    assert (found[0]["low"], found[-1]["high"]) == (0.1, 0.9)
    (same,) = accuracy_by_margin(pairs([1.0, -1.0]), [2.0, 2.0])
    assert (same["low"], same["high"], same["mean"], same["n"]) == (2.0, 2.0, 0.5, 2)


def test_agreement_by_hand():
    """Of three pairs a prompt: all alike, one turned, one tied by one model alone. A single output orders nothing."""
    first = {"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 3], "d": [5]}
    second = {"a": [-9, 0, 4], "b": [2, 1, 3], "c": [1, 1, 3], "d": [0]}
    found = agreement_matrix({"first": first, "second": second})
    shares = [1, 2 / 3, 5 / 6]
    assert (found["names"], found["n"]) == (["first", "second"], 3)
    assert found["agreement"] == [[1.0, pytest.approx(np.mean(shares))], [pytest.approx(np.mean(shares)), 1.0]]
    assert found["standard_error"][0][1] == pytest.approx(np.std(shares, ddof=1) / 3**0.5)
    turned = {name: [-score for score in scores] for name, scores in first.items()}
    assert agreement_matrix({"first": first, "turned": turned})["agreement"][0][1] == 0.0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": [1, 2]}, '"first" scores 3 outputs of \'a\' and "other" 2'),
        ({"a": [1, 2, 3], "b": [1]}, '"first" scores 0 outputs of \'b\' and "other" 1'),
    ],
)
def test_scores_of_other_outputs_are_refused(other, message):
    with pytest.raises(UserError, match=message):
        agreement_matrix({"first": {"a": [1, 2, 3]}, "other": other})


def test_single_outputs_cannot_agree():
    with pytest.raises(UserError, match='No prompt that "first" scores has two outputs'):
        agreement_matrix({"first": {"a": [1]}, "second": {"a": [2]}})
