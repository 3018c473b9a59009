import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.judges.consistency import human_agreement, verdict_statistics
from rlhf_jax.judges.llm import Verdict


def verdict(share, first=True, repeat=0, answer="", reminded=False) -> Verdict:
    return Verdict(first, repeat, share, answer, reminded)


def test_accuracy_counts_ties_and_unreadable_answers_as_wrong():
    found = human_agreement([1, 1, 1, 1, 1], [1, 0.75, 0, 0.5, None])
    assert found["accuracy"]["mean"] == pytest.approx(40)
    assert found["decided_accuracy"] == pytest.approx({"mean": 200 / 3, "standard_error": 100 / 3, "n": 3})
    assert (found["ties"], found["unparsable"], found["n"]) == (1, 1, 5)


def kappa_by_hand(human, judge) -> float:
    """(accuracy - chance) / (1 - chance) over all pairs in both arrangements, from the marginals."""
    mirror = {1: 0, 0: 1, 0.5: 0.5, None: None}
    human, judge = ([*labels, *(mirror[label] for label in labels)] for labels in (human, judge))
    accuracy = np.mean([a == b for a, b in zip(human, judge, strict=True)])
    chance = sum(human.count(label) * judge.count(label) for label in mirror) / len(human) ** 2
    return (accuracy - chance) / (1 - chance)


def test_kappa_is_what_is_beyond_chance_and_does_not_depend_on_the_arrangement():
    rng = np.random.default_rng(0)
    human = rng.choice([0, 1, 0.5], 200).tolist()
    guesses, luck = rng.choice([0, 0.5, 1], 200).tolist(), rng.random(200)
    judge = [h if u < 0.5 else g if u < 0.9 else None for h, g, u in zip(human, guesses, luck, strict=True)]
    kappa = human_agreement(human, judge)["kappa"]
    assert kappa == pytest.approx(kappa_by_hand(human, judge))
    mirrored = [1 - label for label in human], [None if label is None else 1 - label for label in judge]
    assert human_agreement(*mirrored)["kappa"] == pytest.approx(kappa)


def test_kappa_where_people_are_always_given_first():
    assert human_agreement([1] * 4, [1, 1, 1, 0])["kappa"] == pytest.approx(2 * 0.75 - 1)
    assert human_agreement([1] * 4, [1] * 4)["kappa"] == 1
    assert human_agreement([1] * 4, [None] * 4)["kappa"] == 0
    assert human_agreement([1] * 4, [0.5] * 4)["decided_accuracy"] == {"not_computed": "the judge decided no pair"}
    assert human_agreement([0.5] * 4, [0.5] * 4)["kappa"] is None


@pytest.mark.parametrize(("human", "judge"), [([], []), ([1], [1, 0])])
def test_lists_that_do_not_match_are_refused(human, judge):
    with pytest.raises(UserError, match=f"There are {len(human)} human labels and {len(judge)} of the judge"):
        human_agreement(human, judge)


def test_statistics_of_verdicts():
    matches = [
        [verdict(1.0, True), verdict(1.0, False)],  # consistent
        [verdict(1.0, True), verdict(0.0, False)],  # the first shown, twice
        [verdict(1.0, True), verdict(None, False, reminded=True)],
        [verdict(0.5, True, answer=None), verdict(0.5, False, answer=None)],  # the same texts
        [verdict(0.5, True), verdict(0.0, False)],
    ]
    found = verdict_statistics(matches)
    assert (found["matches"], found["identical"], found["answers"]) == (5, 1, 8)
    assert (found["reminded"], found["unparsable"], found["ties"]) == (1, 1, 1)
    assert found["first_shown_wins"]["mean"] == pytest.approx(100 * (0.5 + 1 + 1 + 0.75) / 4)
    assert found["order_consistency"] == pytest.approx({"mean": 100 / 3, "standard_error": 100 / 3, "n": 3})
    assert found["self_consistency"] == {"not_computed": "no question has two answers"}


def test_self_consistency_is_over_pairs_of_repeats_of_one_question():
    match = [verdict(share, True, repeat) for repeat, share in enumerate([1.0, 1.0, 0.0])]
    match += [verdict(share, False, repeat) for repeat, share in enumerate([1.0, None, 1.0])]
    found = verdict_statistics([match])
    assert found["self_consistency"]["mean"] == pytest.approx(100 * (1 + 0 + 0 + 1) / 4)
    assert found["order_consistency"]["mean"] == pytest.approx(100 * (1 + 0) / 2)


def test_nothing_asked_is_nothing_computed():
    found = verdict_statistics([[verdict(0.5, answer=None)]])
    for name in ("first_shown_wins", "order_consistency", "self_consistency"):
        assert "not_computed" in found[name]
