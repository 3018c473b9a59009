"""Each fixed prompt is answered once, under its own id and in its own place. Fillers of a batch are nowhere."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data.batches import Buckets, from_prompts
from rlhf_jax.data.records import Samples, read
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.models.transformer import Edge
from rlhf_jax.rl.eval_samples import FixedPrompts
from rlhf_jax.rl.rollout import Rollout
from rlhf_jax.sampling.rollouts import prompt_id
from rlhf_jax.sampling.sampler import Sampled
from tests import tiny

EXAMPLES = tiny.examples({"validation": 5, "ood_test": 2})


class FakePolicy:
    """Answers with the ids of "a", "b", ..., one letter a prompt, and scores by the number of calls. Keeps shapes."""

    def __init__(self, tokenizer) -> None:
        self.letters = tokenizer("abcdefg", add_special_tokens=False).input_ids
        self.eos = tokenizer.eos_token_id
        self.of_id = {prompt_id(example.id): letter for example, letter in zip(EXAMPLES, self.letters, strict=True)}
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, batch, ids):
        self.shapes.append(batch.prompt.shape)
        first = np.array([self.of_id.get(int(i), self.eos) for i in ids], np.int32)
        response = np.stack([np.stack([first, np.full_like(first, self.eos)], -1), np.tile(first[:, None], 2)], axis=1)
        mask = np.broadcast_to([[True, True], [True, False]], response.shape)
        sequences = batch.replace(response=response, response_mask=mask)
        finished = np.tile([True, False], (len(ids), 1))
        scores = jnp.tile(jnp.array([0.5, 1.0]), (len(ids), 1)) * len(self.shapes)
        sampled = Sampled(sequences, Edge(batch.prompt, response), jnp.zeros(response.shape), finished)
        log_probs = jnp.log(jnp.broadcast_to(jnp.array([[0.5, 0.25], [0.5, 0.5]]), response.shape))
        reference = jnp.log(jnp.full(response.shape, 0.25))
        unread = jnp.zeros(response.shape)
        values = {name: unread for name in ("values", "rewards", "advantages", "returns")}
        return sampled, Rollout(sequences, sampled.edge, scores, log_probs, reference, **values)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(tiny.write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def written(tokenizer, tmp_path):
    """`(policy, metrics, records)` of seven prompts in batches of three."""
    policy = FakePolicy(tokenizer)
    items = from_prompts(EXAMPLES, tokenizer, 96)
    fixed = FixedPrompts(EXAMPLES, items, tokenizer, Buckets((96,), (1,)), batch_size=3)
    metrics = fixed.write(tmp_path / "samples-8.jsonl", policy, step=8, temperature=0.7, seed=4)
    assert [path.name for path in tmp_path.iterdir()] == ["samples-8.jsonl"], "and nothing half-written beside it"
    return policy, metrics, read(tmp_path / "samples-8.jsonl", Samples)


def test_every_prompt_is_answered_in_its_place(written):
    _, _, records = written
    assert [(r.id, r.prompt, r.reference) for r in records] == [(e.id, e.prompt, e.response) for e in EXAMPLES]
    assert [r.outputs for r in records] == [[letter, letter] for letter in "abcdefg"]
    assert all((r.finish, r.n, r.seed, r.checkpoint) == (["eos", "length"], 2, 4, "step 8") for r in records)


def test_a_splits_score_is_the_mean_over_its_own_responses(written):
    _, metrics, records = written
    assert [r.rewards for r in records] == [[0.5, 1.0]] * 3 + [[1.0, 2.0]] * 3 + [[1.5, 3.0]]
    assert {name: value for name, value in metrics.items() if name.endswith("score")} == {
        "eval/validation/score": pytest.approx(np.mean([0.5, 1.0] * 3 + [1.0, 2.0] * 2)),
        "eval/ood_test/score": pytest.approx(np.mean([1.0, 2.0, 1.5, 3.0])),
    }


def test_a_responses_kl_is_the_sum_over_its_own_tokens(written):
    """Log-ratios of log 2 and 0 in the first, log 2 in the second, whose other token is filler."""
    _, metrics, records = written
    k1, k3 = np.log(2), 0.5 - 1 + np.log(2)
    for record in records:
        assert record.kl_k1 == pytest.approx([k1, k1])
        assert record.kl_k3 == pytest.approx([k3, k3])
    for split in ("validation", "ood_test"):
        assert metrics[f"eval/{split}/kl_k1"] == pytest.approx(k1)
        assert metrics[f"eval/{split}/kl_k3"] == pytest.approx(k3)
