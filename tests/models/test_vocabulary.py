"""Rows of the vocabulary that are no ids: never sampled, in no softmax, not exported (invariant 10)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rlhf_jax.models import heads
from rlhf_jax.models.hf.pretrained import load, save_pretrained
from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling import rollouts
from tests import tiny

BATCH = tiny.sequences([7, 4], [[5, 8], [1, 3]], prompt=9, response=8)


def log_probs_and_gradient(model, params):
    def total(params):
        log_probs, entropy = heads.log_probs(model, params, BATCH, model.top(params, BATCH, model.trunk(params, BATCH)))
        return jnp.sum((log_probs + 0.1 * entropy) * BATCH.response_mask)

    return jit(jax.value_and_grad(total))(params)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_pretrained(folder, *tiny.network(0.0, tied=request.param, layers=1))
    return folder


def loaded(folder, **changes):
    pretrained = load(str(folder), 0.0, jnp.dtype("float32"), **changes)
    return pretrained.model, pretrained.top


def test_padding_changes_nothing(folder, tmp_path):
    """Not even where the padded rows hold the largest logits. And they do not come out again."""
    model, params = loaded(folder)
    padded_model, padded = loaded(folder, vocabulary_multiple=64)
    assert padded["embed"]["table"].shape == (320, 32)
    head = padded_model.head_table(padded)
    loud = head.at[300:].set(50.0 * head[:20])
    padded["embed" if model.architecture.tied else "head"] = {"table": loud}

    tokens = BATCH.prompt
    expected = jit(model.logits)(params, tokens, BATCH.prompt_mask)
    actual = jit(padded_model.logits)(padded, tokens, BATCH.prompt_mask)
    np.testing.assert_array_equal(actual, expected)

    (value, gradient), (padded_value, padded_gradient) = (
        log_probs_and_gradient(*both) for both in ((model, params), (padded_model, padded))
    )
    assert padded_value == pytest.approx(float(value), rel=1e-6)
    rows = padded_model.head_table(padded_gradient)
    np.testing.assert_array_equal(rows[300:], 0.0)
    np.testing.assert_allclose(rows[:300], model.head_table(gradient), atol=1e-5)

    save_pretrained(tmp_path, padded_model, padded)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_ids_that_the_tokenizer_does_not_know_are_not_sampled(folder):
    """Their logits are there, as in transformers. Their probability is not."""
    model, params = loaded(folder)
    known = dataclasses.replace(model, ids=200)
    assert known.logits(params, BATCH.prompt, BATCH.prompt_mask).shape[-1] == 300
    for temperature in (0.0, 5.0):
        sizes = {"samples": 32, "max_new_tokens": 12, "temperature": temperature, "eos_id": -1}
        arguments = (BATCH.prompt, BATCH.prompt_mask, np.arange(2), jax.random.key(0))
        sampled = rollouts.make_sample(known, **sizes)({}, params, *arguments)
        assert int(sampled.sequences.response.max()) < 200
        free = rollouts.make_sample(model, **sizes)({}, params, *arguments)
        assert int(free.sequences.response.max()) >= 200, "else the test would show nothing"
