"""Reward against KL: PPO's checkpoints and best-of-n of the same prompts, compared at equal KL."""

import dataclasses
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from rlhf_jax.data.records import Samples, write
from rlhf_jax.errors import UserError
from rlhf_jax.metrics.best_of_n import best_of_n_estimates, best_of_n_kl, best_of_n_values
from rlhf_jax.stages import reward_vs_kl
from rlhf_jax.stages.reward_vs_kl import Config, score_above_best_of_n
from tests import tiny

PROMPTS, POOL = 12, 8
SPLITS = ("id_test", "ood_test")


def sampled(rewards, split="id_test", *, kl=None, temperature=1.0, start=0) -> list[Samples]:
    """A record a row of `rewards` `[B, N]`. K3 is k1 and a bit more."""
    n = len(rewards[0])
    fields = {} if kl is None else {"kl_k1": [kl] * n, "kl_k3": [kl + 0.01] * n}
    fields |= {"split": split, "temperature": temperature}
    return [
        tiny.samples(f"{split}/{start + i}", ["y"] * n, rewards=row.tolist(), **fields) for i, row in enumerate(rewards)
    ]


def both(rewards, **changes) -> list[Samples]:
    return [record for split in SPLITS for record in sampled(rewards, split, **changes)]


@pytest.fixture
def pool():
    return np.random.default_rng(0).normal(size=(PROMPTS, POOL))


@pytest.fixture
def study(tmp_path, pool):
    """A pool at 1, one at 0.7, and a policy whose score at step 4 is one nat above the pool's mean."""
    write(tmp_path / "pool.jsonl", both(pool))
    write(tmp_path / "cold.jsonl", both(pool, temperature=0.7))
    write(tmp_path / "ppo" / "samples-0.jsonl", both(pool[:, :2], kl=0.0))
    write(tmp_path / "ppo" / "samples-10.jsonl", both(pool[:, :2] - 3.0, kl=4.0))
    write(tmp_path / "ppo" / "samples-4.jsonl", both(pool[:, 2:4] + 3.0, kl=0.5))
    pools = {"pool": str(tmp_path / "pool.jsonl"), "cold": str(tmp_path / "cold.jsonl")}
    return Config("reward_vs_kl", "Reward and KL", pools, {"ppo": str(tmp_path / "ppo")}, seed=0)


def test_the_json_holds_the_curve_of_every_pool_and_the_points_of_every_step(study, tmp_path, pool, capsys):
    reward_vs_kl.run(study, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "reward_vs_kl.json").read_text())
    assert list(found) == list(SPLITS)
    curve = found["id_test"]["pools"]["pool"]
    for estimate, expected in zip(curve["best_of_n"], best_of_n_estimates(pool), strict=True):
        assert estimate == pytest.approx(expected)
    assert (curve["temperature"], curve["samples"], curve["prompts"]) == (1.0, POOL, PROMPTS)
    steps = found["ood_test"]["policies"]["ppo"]
    assert [step["step"] for step in steps] == [0, 4, 10], "in the order of training, not of names"
    assert steps[1]["score"]["mean"] == pytest.approx(pool[:, 2:4].mean() + 3.0)
    assert steps[1]["score"]["standard_error"] == pytest.approx(pool[:, 2:4].mean(axis=1).std(ddof=1) / PROMPTS**0.5)
    assert (steps[1]["kl_k1"]["mean"], steps[1]["kl_k3"]["mean"]) == (pytest.approx(0.5), pytest.approx(0.51))
    told = capsys.readouterr().out
    assert "id_test, ppo at step 4" in told
    assert "above pool at that KL" in told


def test_another_temperature_is_labelled_apart_and_a_kl_beyond_the_pool_is_not_compared(study, tmp_path):
    reward_vs_kl.run(study, tmp_path / "out")
    steps = json.loads((tmp_path / "out" / "reward_vs_kl.json").read_text())["id_test"]["policies"]["ppo"]
    assert steps[1]["above"]["cold"] == {"not_computed": "drawn at temperature 0.7; the policy's KL is one at 1"}
    assert steps[2]["above"]["pool"]["not_computed"].startswith("a KL of 4.00 is beyond the best of 8, which has 1.20")


def test_the_plot_stands_alone(study, tmp_path):
    reward_vs_kl.run(study, tmp_path / "out")
    for split in SPLITS:
        svg = ElementTree.parse(tmp_path / "out" / f"reward_vs_kl-{split}.svg").getroot()
        texts = {element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")}
        assert {"pool, temperature 1", "cold, temperature 0.7", "ppo", "KL, nats per response", "score"} <= texts
        title = svg.find("{http://www.w3.org/2000/svg}title").text
        assert "ppo from" in title and "at 4.00 nats" in title
        raw = (tmp_path / "out" / f"reward_vs_kl-{split}.svg").read_text()
        assert all(f"--{name}:" in raw for name in ("ink", "rule", "series-2")), "no colour is left to a page"


def test_at_equal_kl_best_of_n_equals_itself(pool):
    """A policy that is best-of-n itself, at n of the pool and between two: no difference, in every resample."""
    best = best_of_n_values(pool)
    for n in (1, 2, 5, POOL):
        above = score_above_best_of_n(best[:, n - 1], np.full(PROMPTS, best_of_n_kl(n) - 1e-9), best, seed=0)
        assert [above[key] for key in ("mean", "low", "high")] == pytest.approx([0.0] * 3, abs=1e-8)
    half = (best_of_n_kl(2) + best_of_n_kl(3)) / 2
    above = score_above_best_of_n((best[:, 1] + best[:, 2]) / 2, np.full(PROMPTS, half), best, seed=0)
    assert above["mean"] == pytest.approx(0.0, abs=1e-12)
    assert above["best_of_n"] == pytest.approx((best[:, 1] + best[:, 2]).mean() / 2)


def test_the_interval_is_that_of_the_paired_differences(pool):
    """Without KL best-of-n is the pool's mean, and the bootstrap that of a plain mean of differences."""
    best = best_of_n_values(pool)
    score = best[:, 0] + np.random.default_rng(1).normal(0.3, 0.2, size=PROMPTS)
    above = score_above_best_of_n(score, np.zeros(PROMPTS), best, seed=0)
    differences = score - best[:, 0]
    assert above["mean"] == pytest.approx(differences.mean())
    error = differences.std() / PROMPTS**0.5
    assert above["high"] - above["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: write(p / "pool.jsonl", both(np.ones((3, 2)))), "has other prompts than the pool pool"),
        (lambda p: write(p / "ppo" / "samples-4.jsonl", both(np.ones((PROMPTS, 2)))), "samples-4.jsonl has no KL at"),
        (lambda p: [path.unlink() for path in (p / "ppo").iterdir()], "has no samples-<step>.jsonl"),
        (
            lambda p: write(p / "pool.jsonl", [*both(np.ones((3, 2))), *sampled(np.ones((1, 4)), start=9)]),
            "has n = 4, expected 2 as before it",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(study, tmp_path, change, message):
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        reward_vs_kl.run(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pool_without_rewards_is_refused(study, tmp_path):
    write(tmp_path / "pool.jsonl", [dataclasses.replace(record, rewards=None) for record in both(np.ones((3, 2)))])
    with pytest.raises(UserError, match=r'pool.jsonl has no rewards at "id_test/0"'):
        reward_vs_kl.run(study, tmp_path / "out")
