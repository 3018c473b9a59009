"""Many prompts through the sampler: each one's responses come back under its own index, fillers do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Edge
from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling.rollouts import LENGTH_STEP, Responses, prompt_id, sample_prompts
from rlhf_jax.sampling.sampler import Sampled
from rlhf_jax.sampling.score import make_edge_score
from tests import tiny

SAMPLES, LENGTH, PAD = 2, 5, 9
LENGTHS = [3, 80, 64, 65, 1, 130, 7]
PROMPTS = [[10 + i] * length for i, length in enumerate(LENGTHS)]
IDS = [100 + i for i in range(len(LENGTHS))]


class FakeSampler:
    """Responds to prompt `i` with `i % LENGTH + 1` copies of its id, the second sample unfinished. Keeps its calls."""

    def __init__(self, longest_prompt: int | None = None) -> None:
        self.prompts: list[np.ndarray] = []
        self.longest_prompt = longest_prompt

    def __call__(self, trunk, top, prompt, mask, ids, key) -> Sampled:
        np.testing.assert_array_equal(mask.sum(axis=-1) > 0, True)
        assert (prompt[~mask] == PAD).all()
        self.prompts.append(prompt)
        np.testing.assert_array_equal(prompt[:, 0], ids - 90)
        response = np.broadcast_to(ids[:, None, None], (len(ids), SAMPLES, LENGTH))
        real = np.broadcast_to(np.arange(LENGTH) <= (ids % LENGTH)[:, None, None], response.shape)
        log_probs = jnp.where(real, -1.0, 0.0)
        finished = np.tile([True, False], (len(ids), 1))
        return Sampled(
            Sequences(prompt, mask, response, jnp.asarray(real)), Edge(prompt, response), log_probs, finished
        )


def run(sample, **changes) -> list[list[tuple[int, Responses]]]:
    arguments = {"batch_size": 3, "pad_id": PAD, "key": jax.random.key(0), **changes}
    return list(sample_prompts(sample, {}, {}, PROMPTS, IDS, **arguments))


def test_every_prompt_comes_back_once_with_its_own_responses():
    batches = run(FakeSampler())
    assert [len(batch) for batch in batches] == [3, 3, 1]
    responses = dict(pair for batch in batches for pair in batch)
    assert sorted(responses) == list(range(7))
    for i, r in responses.items():
        assert r.tokens == [[IDS[i]] * (IDS[i] % LENGTH + 1)] * SAMPLES
        assert (r.finished, r.scores) == ([True, False], None)


def test_neighbours_in_length_share_a_batch_of_one_of_few_shapes():
    sample = FakeSampler()
    run(sample)
    assert [prompt.shape for prompt in sample.prompts] == [(3, 64), (3, 128), (3, 192)]
    assert LENGTH_STEP == 64


def test_scores_are_those_of_each_row():
    def score(trunk, sequences, edge):
        return sequences.response[:, :, 0] + jnp.array([0.25, 0.75])

    for batch in run(FakeSampler(), score=score):
        for i, r in batch:
            assert r.scores == [IDS[i] + 0.25, IDS[i] + 0.75]


@pytest.mark.parametrize("broken", ["log_probs", "scores"])
def test_numbers_that_are_not_finite_stop_it(broken):
    class Broken(FakeSampler):
        def __call__(self, *arguments) -> Sampled:
            sampled = super().__call__(*arguments)
            return sampled.replace(log_probs=sampled.log_probs * jnp.nan) if broken == "log_probs" else sampled

    with pytest.raises(UserError, match="not finite; the weights are broken"):
        run(Broken(), score=lambda *_: jnp.full((3, SAMPLES), jnp.inf))


def test_a_prompt_id_is_a_function_of_the_name_and_fits_int32():
    assert prompt_id("train/3") == 1314447017  # in every process, on every machine
    ids = [prompt_id(f"train/{i}") for i in range(1000)]
    assert len(set(ids)) == 1000
    assert min(ids) >= 0 and max(ids) < 2**31


def test_a_score_is_normalised_by_the_constants():
    model, params = tiny.network(freeze=0.0, layers=1)
    trunk, top = model.split(tiny.with_role(params, "reward"))
    batch = tiny.sequences([4, 2], [[3, 5], [1, 2]], prompt=6, response=6)
    edge = jit(model.trunk)(trunk, batch)
    raw = make_edge_score(model, top, 0.0, 1.0)(trunk, batch, edge)
    normalised = make_edge_score(model, top, 3.0, 0.5)(trunk, batch, edge)
    np.testing.assert_allclose(normalised, (np.asarray(raw) - 3.0) / 0.5, rtol=1e-5)
