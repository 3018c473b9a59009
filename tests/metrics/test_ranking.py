import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.ranking import bradley_terry


def judgement(id: int, model: str, against: str, preference: float) -> dict[str, Any]:
    return {"id": f"p{id}", "split": "id_test", "model": model, "against": against, "preference": preference}


def tournament(strengths: dict[str, float], prompts: int, seed: int = 0) -> list[dict[str, Any]]:
    """Every pair on every prompt, drawn from the model itself."""
    rng = np.random.default_rng(seed)
    return [
        judgement(id, a, b, 1.0 + (rng.random() < 1 / (1 + math.exp(strengths[b] - strengths[a]))))
        for id in range(prompts)
        for a, b in itertools.combinations(strengths, 2)
    ]


def strengths(ranking: list[dict[str, Any]]) -> dict[str, float]:
    return {row["model"]: row["strength"] for row in ranking}


def test_two_models_are_the_corrected_log_odds():
    """7 wins, 2 losses and a tie: (7.5 + 0.5) / (2.5 + 0.5), half of the log-odds on either side of 0."""
    ranking = bradley_terry([judgement(i, "a", "b", p) for i, p in enumerate([2] * 7 + [1] * 2 + [0])])
    expected = math.log(8 / 3) / 2
    assert strengths(ranking) == pytest.approx({"a": expected, "b": -expected})
    assert [row["comparisons"] for row in ranking] == [10, 10]


def test_it_is_the_maximum_of_the_likelihood():
    """By a general optimiser, on an unbalanced table with ties and weights and a pair that never met."""
    rng = np.random.default_rng(3)
    pairs = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "c")]
    judgements = [judgement(i, *pairs[i % 4 if i < 40 else 0], rng.choice([1, 1.25, 1.5, 2])) for i in range(70)]
    names = "abcd"
    wins = np.zeros((4, 4))
    for row in judgements:
        i, j = names.index(row["model"]), names.index(row["against"])
        wins[i, j] += row["preference"] - 1
        wins[j, i] += 2 - row["preference"]
    wins += 0.5 * (wins + wins.T > 0)
    best = minimize(lambda s: (wins * np.logaddexp(0, s[None] - s[:, None])).sum(), np.zeros(4), tol=1e-12).x
    expected = dict(zip(names, (best - best.mean()).tolist(), strict=True))
    assert strengths(bradley_terry(judgements, resamples=10)) == pytest.approx(expected, abs=1e-4)


def test_it_finds_the_strengths_and_the_intervals_cover_them():
    truth = {"ppo": 0.9, "bon": 0.4, "reference": -0.1, "sft": -1.2}
    ranking = bradley_terry(tournament(truth, 400))
    assert [row["model"] for row in ranking] == list(truth)
    assert sum(strengths(ranking).values()) == pytest.approx(0, abs=1e-9)
    for row in ranking:
        low, high = row["interval"]
        assert low < row["strength"] < high
        assert low < truth[row["model"]] < high
        assert high - low < 0.5


def test_a_prompt_is_drawn_with_all_its_comparisons():
    """Twenty judges that say the same of a prompt tell no more than one: intervals do not shrink with them."""
    rng = np.random.default_rng(0)
    verdicts = rng.choice([1.0, 2.0], 60)
    opponents = [f"m{i}" for i in range(20)]
    ranking = bradley_terry([judgement(i, "a", b, p) for i, p in enumerate(verdicts) for b in opponents])
    alone = bradley_terry([judgement(i, "a", "b", p) for i, p in enumerate(verdicts)])
    many, one = (np.ptp(next(row["interval"] for row in rows if row["model"] == "a")) for rows in (ranking, alone))
    # a's strength is 20/21 of the log-odds against 20 equal opponents, and 1/2 of it against one
    assert many / (20 / 21) == pytest.approx(one / (1 / 2), rel=0.05)


def test_the_order_of_a_pair_does_not_matter():
    judgements = tournament({"a": 0.5, "b": 0.0, "c": -0.5}, 30)
    swapped = [judgement(int(j["id"][1:]), j["against"], j["model"], 3 - j["preference"]) for j in judgements]
    assert bradley_terry(judgements, resamples=20) == bradley_terry(swapped, resamples=20)


def test_a_model_that_lost_everything_is_last_and_finite():
    judgements = [judgement(i, a, b, 2) for i in range(2000) for a, b in itertools.combinations("abcd", 2)]
    ranking = bradley_terry(judgements, resamples=5)
    assert [row["model"] for row in ranking] == list("abcd")
    assert all(math.isfinite(row["strength"]) for row in ranking)


UNCONNECTED = [judgement(0, "a", "b", 2), judgement(0, "c", "d", 1), judgement(1, "d", "e", 2)]


@pytest.mark.parametrize(
    ("judgements", "message"),
    [
        ([], "no preferences"),
        (UNCONNECTED, "No comparisons connect these groups of models: a, b; c, d, e; expected"),
        ([judgement(0, "a", "a", 2)], "a is compared with itself on 'p0'"),
        ([judgement(0, "a", "b", 2), judgement(0, "b", "a", 1)], "b and a are compared twice on 'p0'"),
        ([judgement(0, "a", "b", 3)], "Preference 0 is 3"),
    ],
)
def test_bad_input_is_a_sentence(judgements, message):
    with pytest.raises(UserError, match=message):
        bradley_terry(judgements)
