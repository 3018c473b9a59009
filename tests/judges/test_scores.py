import dataclasses

import numpy as np
import pytest

from rlhf_jax.data.formats import docstring_prompt
from rlhf_jax.data.records import Samples
from rlhf_jax.errors import UserError
from rlhf_jax.judges import scores
from rlhf_jax.metrics.text import rouge_l
from tests import tiny

REFERENCE = "rotates a picture"
OUTPUTS = ["rotates a picture", "a picture", "nothing"]


def sample(id: str, outputs=OUTPUTS, rewards=None, selected=None) -> Samples:
    prompt = docstring_prompt("scipy", id, "Rotates the picture.")
    return tiny.samples(id, outputs, prompt=prompt, reference=REFERENCE, rewards=rewards, selected=selected)


def test_gold_scores_every_side_and_each_pair_once():
    calls = []

    def scorer(texts, outputs):
        calls.extend(outputs)
        return np.array([len(output) for output in outputs], np.float64)

    found = scores.gold_scores({"sft": [sample("a")], "bon": [sample("a", ["nothing", "else"], selected=1)]}, scorer)
    assert calls == ["rotates a picture", "a picture", "nothing", "else"]
    assert {key: values.tolist() for key, values in found.items()} == {
        ("reference", "a"): [17],
        ("sft", "a"): [17, 9, 7],
        ("bon", "a"): [4],
    }


def test_rewards_are_read_from_the_samples():
    bon = sample("a", rewards=[0.0, 2.0, 1.0], selected=1)
    found = scores.reward_scores({"sft": [sample("a", rewards=[1, 2, 3])], "bon": [bon]})
    assert {key: values.tolist() for key, values in found.items()} == {("sft", "a"): [1, 2, 3], ("bon", "a"): [2]}
    with pytest.raises(UserError, match='"ppo" have no rewards at "a"'):
        scores.reward_scores({"ppo": [sample("a")]})


def test_likeness_to_the_reference_by_rouge():
    bon = dataclasses.replace(sample("a"), selected=2)
    found = scores.similarity_scores({"sft": [sample("a")], "bon": [bon]}, "rouge_l")
    assert found.keys() == {("sft", "a"), ("bon", "a")}
    assert found["sft", "a"].tolist() == [1.0, rouge_l("a picture", REFERENCE), 0.0]
    assert found["bon", "a"].tolist() == [0.0]


def test_likeness_to_the_reference_by_cosine(monkeypatch):
    vectors = {REFERENCE: [1, 0], "a picture": [0.6, 0.8], "nothing": [0, 1]}
    encode = lambda texts: np.array([vectors[text] for text in texts], np.float32)  # noqa: E731
    monkeypatch.setattr("rlhf_jax.encoders.sentence.load_encoder", lambda name: {"mine": encode}[name])
    found = scores.similarity_scores({"sft": [sample("a"), sample("b", ["nothing"])]}, "mine")
    np.testing.assert_allclose(found["sft", "a"], [1, 0.6, 0], atol=1e-6)
    np.testing.assert_allclose(found["sft", "b"], [0], atol=1e-6)
