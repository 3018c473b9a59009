"""Sampling is the forward pass, one token at a time: its log-probs, its states, and draws that depend on no mate."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling import sampler
from rlhf_jax.sampling.sampler import draw
from tests import numpy_llama, tiny

EOS = 1
TEMPERATURE = 0.7
PROMPTS = tiny.sequences([7, 1, 4], [[1], [1], [1]], prompt=9, response=1)
PROMPT_IDS = np.array([31, 8, 2**31 - 1], np.int32)
SAMPLES, LENGTH = 4, 10


def network(**changes):
    """A network that ends a response now and then: the EOS row of the embedding stands out."""
    model, params = tiny.network(**changes)
    table = params["embed"]["table"]
    params["embed"]["table"] = table.at[EOS].set(-4.0 * table[EOS])
    return model, params


def program(model, samples=SAMPLES, length=LENGTH, **options):
    prefill = jit(partial(sampler.prefill, model, max_new_tokens=length))
    decode = jit(partial(sampler.decode, model, samples=samples, max_new_tokens=length, eos_id=EOS, **options))

    def sample(params, prompt, prompt_mask, *arguments):
        return decode(params, prompt, prompt_mask, prefill(params, prompt, prompt_mask), *arguments)

    return sample


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """`(model, params, sample, tensors of the oracle)`."""
    model, params = network()
    return model, params, program(model), numpy_llama.tensors_of(tmp_path_factory.mktemp("model"), model, params)


@pytest.fixture(scope="module")
def sampled(setting):
    model, params, sample, _ = setting
    return sample(params, PROMPTS.prompt, PROMPTS.prompt_mask, PROMPT_IDS, jax.random.key(3), TEMPERATURE)


def rows():
    return [(row, sample) for row in range(3) for sample in range(SAMPLES)]


def response(sampled, row, sample):
    return np.asarray(sampled.sequences.response[row, sample])[np.asarray(sampled.sequences.response_mask[row, sample])]


def by_the_oracle(setting, sampled, row, sample):
    """The tokens of a response and the oracle's logits `[T, V]` before each, at temperature 1."""
    model, _, _, tensors = setting
    ids, tokens = tiny.ids(jax.tree.map(np.asarray, sampled.sequences), row, sample), response(sampled, row, sample)
    return tokens, numpy_llama.logits(tensors, model.architecture, ids)[-len(tokens) - 1 : -1]


def test_responses_end_at_their_first_eos_or_at_the_limit(sampled):
    """Invariant 4: the EOS is in the mask, though padding has its id."""
    lengths = np.asarray(sampled.sequences.response_mask.sum(axis=-1))
    assert {1, 2, 3, LENGTH} <= set(lengths.ravel().tolist())  # or this test and the next ones mean little
    for row, sample in rows():
        tokens, finished = response(sampled, row, sample), bool(sampled.finished[row, sample])
        np.testing.assert_array_equal(sampled.sequences.response_mask[row, sample], np.arange(LENGTH) < len(tokens))
        assert finished == (tokens[-1] == EOS)
        assert finished or len(tokens) == LENGTH
        assert EOS not in tokens[:-1]


def test_log_probs_are_those_of_the_forward_pass(setting, sampled):
    """Invariant 2, the temperature included, and cached decoding against none: the oracle reads each row whole."""
    model, _, _, tensors = setting
    for row, sample in rows():
        ids = tiny.ids(jax.tree.map(np.asarray, sampled.sequences), row, sample)
        length = len(response(sampled, row, sample))
        expected = numpy_llama.response_log_probs(tensors, model.architecture, ids, length, TEMPERATURE)
        np.testing.assert_allclose(sampled.log_probs[row, sample, :length], expected, atol=3e-4)
        assert not np.asarray(sampled.log_probs[row, sample, length:]).any()


def test_states_at_the_edge_are_those_of_the_trunk(setting, sampled):
    """Invariant 12: one state for every token that was fed, the last token of each response among them."""
    model, params, _, _ = setting
    edge = jit(model.trunk)(params, sampled.sequences)
    context = PROMPTS.context_mask()[..., None]
    np.testing.assert_allclose(context * sampled.edge.context, context * edge.context, atol=1e-5)
    real = np.asarray(sampled.sequences.continuation()[1])[..., None]
    np.testing.assert_allclose(real * sampled.edge.continuation, real * edge.continuation, atol=1e-5)
    for row, sample in rows():
        assert np.asarray(sampled.edge.continuation[row, sample, len(response(sampled, row, sample))]).any()


def test_every_draw_is_by_its_own_number(setting, sampled):
    """Invariant 2: folded from (prompt id, sample, position), drawn from the oracle's distribution."""
    for row, sample in rows():
        tokens, logits = by_the_oracle(setting, sampled, row, sample)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), PROMPT_IDS[row]), sample)
        numbers = jnp.stack([jax.random.uniform(jax.random.fold_in(key, i)) for i in range(len(tokens))])
        np.testing.assert_array_equal(draw(jnp.asarray(logits / TEMPERATURE, jnp.float32), numbers), tokens)


def test_samples_depend_neither_on_batch_mates_nor_on_n_nor_on_padding(setting, sampled):
    """Invariants 2 and 3: a prompt alone, longer padded with another id, two samples instead of four."""
    model, params, _, _ = setting
    prompt = np.pad(PROMPTS.prompt[2:], ((0, 0), (0, 4)), constant_values=77)
    mask = np.pad(PROMPTS.prompt_mask[2:], ((0, 0), (0, 4)))
    alone = program(model, samples=2)(params, prompt, mask, PROMPT_IDS[2:], jax.random.key(3), TEMPERATURE)
    np.testing.assert_array_equal(alone.sequences.response[0], sampled.sequences.response[2, :2])
    np.testing.assert_array_equal(alone.sequences.response_mask[0], sampled.sequences.response_mask[2, :2])
    np.testing.assert_allclose(alone.log_probs[0], sampled.log_probs[2, :2], atol=1e-5)


def test_greedy_takes_the_likeliest_token_and_counts_at_temperature_one(setting):
    _, params, program, _ = setting
    greedy = program(params, PROMPTS.prompt, PROMPTS.prompt_mask, PROMPT_IDS, jax.random.key(3), 0.0)
    for row, sample in rows():
        tokens, logits = by_the_oracle(setting, greedy, row, sample)
        predicted = numpy_llama.log_softmax(logits)
        np.testing.assert_array_equal(tokens, predicted.argmax(axis=-1))
        np.testing.assert_allclose(greedy.log_probs[row, sample, : len(tokens)], predicted.max(axis=-1), atol=1e-4)


def test_top_k_draws_from_the_likeliest_and_scores_by_the_full_softmax(setting):
    """A quirk of the study's samples: what is drawn is not what is scored, by up to the mass that was cut off."""
    model, params, _, _ = setting
    arguments = params, PROMPTS.prompt, PROMPTS.prompt_mask, PROMPT_IDS, jax.random.key(3), 2.0
    sampled = program(model, top_k=5)(*arguments)
    cut = []
    for row, sample in rows():
        tokens, logits = by_the_oracle(setting, sampled, row, sample)
        full = numpy_llama.log_softmax(logits / 2.0)
        chosen = full[np.arange(len(tokens)), tokens]
        np.testing.assert_allclose(sampled.log_probs[row, sample, : len(tokens)], chosen, atol=3e-4)
        fifth = np.sort(full, axis=-1)[:, -5]
        assert (chosen >= fifth - 1e-4).all()
        cut.extend(1 - np.exp(np.sort(full, axis=-1)[:, -5:]).sum(axis=-1))
    assert np.mean(cut) > 0.2, "else the cut would be no cut"


def test_without_a_trunk_the_edge_is_the_token_ids():
    model, params = network(freeze=0.0, layers=1)
    arguments = params, PROMPTS.prompt, PROMPTS.prompt_mask, PROMPT_IDS, jax.random.key(3), 1.0
    sampled = program(model, samples=2, length=3)(*arguments)
    tokens, real, _ = sampled.sequences.continuation()
    np.testing.assert_array_equal(sampled.edge.context, PROMPTS.prompt)
    np.testing.assert_array_equal(real * sampled.edge.continuation, real * tokens)


@pytest.mark.parametrize("vocabulary", [5, sampler.BLOCK, 2 * sampler.BLOCK + 1])
def test_draws_invert_the_cumulative_distribution(vocabulary):
    rng = np.random.default_rng(vocabulary)
    logits = rng.normal(0, 2, (64, vocabulary)).astype(np.float32)
    uniform = np.sort(rng.random(64)).astype(np.float32)
    tokens = np.asarray(draw(logits, jnp.asarray(uniform)))
    cumulative = np.cumsum(numpy_llama.softmax(logits.astype(np.float64)), axis=-1)
    above = cumulative[np.arange(64), tokens]
    below = np.where(tokens > 0, cumulative[np.arange(64), tokens - 1], 0.0)
    assert tokens.dtype == np.int32
    assert (below - 1e-6 <= uniform).all() and (uniform < above + 1e-6).all()


def test_an_index_without_mass_is_never_drawn():
    """Whatever rounding does to the sums: every number at which a partial sum of weights or of blocks lies is tried."""
    rng = np.random.default_rng(0)
    size = 2 * sampler.BLOCK + 40
    weights = rng.random(size).astype(np.float32) * (rng.random(size) < 0.4)
    weights[[0, 1, sampler.BLOCK - 1, sampler.BLOCK, -2, -1]] = 0.0
    weights[sampler.BLOCK : sampler.BLOCK + 9] = 0.0
    sums = np.asarray(jnp.cumsum(jnp.asarray(weights)))
    ends = np.array([0.0, 1 - 2.0**-24, 0.5], np.float32)
    at = np.clip(sums / sums[-1], 0, ends[1]).astype(np.float32)
    beside = (np.nextafter(at, to, dtype=np.float32) for to in (0, 1))
    uniform = np.concatenate([ends, *beside, at]).clip(0, ends[1])
    logits = np.tile(np.log(weights, where=weights > 0, out=np.full(size, -np.inf, np.float32)), (len(uniform), 1))
    tokens = np.asarray(jit(draw)(logits, uniform))
    assert (weights[tokens] > 0).all()
    assert tokens[0] == np.flatnonzero(weights)[0]
    assert tokens[1] == np.flatnonzero(weights)[-1]
    hidden = np.where(np.isfinite(logits), logits, -1e30).astype(np.float32)  # as a mask writes them
    np.testing.assert_array_equal(jit(draw)(hidden, uniform), tokens)


def test_a_block_without_mass_is_never_drawn_from():
    """Over a large vocabulary the sums of blocks are added in parallel, and rounding moves them where a block is 0."""
    blocks, rows = 512, 6
    rng = np.random.default_rng(0)
    log_mass = np.where(rng.random(blocks) < 0.5, np.log(rng.random(blocks)), -np.inf).astype(np.float32)
    mass = jit(lambda x: jnp.exp(x - x.max()))(log_mass)
    sums = np.asarray(jit(lambda x: jnp.cumsum(x, axis=-1))(jnp.tile(mass, (rows, 1))))[0]
    moved = np.argmax(np.where(mass[1:] == 0, np.diff(sums), 0))
    at = np.float32(sums[moved] / sums[-1])
    uniform = at + np.arange(-2, 4, dtype=np.float32) * np.spacing(at)
    logits = np.full((rows, blocks, sampler.BLOCK), -np.inf, np.float32)
    logits[:, :, 7] = log_mass
    tokens = np.asarray(jit(draw)(logits.reshape(rows, -1), uniform))
    assert np.isfinite(logits.reshape(rows, -1)[0, tokens]).all()
