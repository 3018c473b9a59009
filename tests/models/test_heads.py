"""What the roles read off the final states: the right state, the right token, whatever shares the batch."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import heads
from rlhf_jax.parallel.jit import jit
from tests import numpy_llama, tiny

# Finished by EOS (which is the pad id), cut, one token long, and a row without any response: a filler of the batch.
BATCH = tiny.sequences([7, 1, 4], [[5, 8], [1, 3], [2, 0]], prompt=9, response=8)
BATCH.response[0, 1, 7] = 17
ROWS = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """`(model, params, states, tensors of the oracle)`. The parameters have both heads."""
    model, params = tiny.network()
    params = tiny.with_role(tiny.with_role(params, "value", 1), "reward", 2)
    hidden = jit(lambda params: model.top(params, BATCH, model.trunk(params, BATCH)))(params)
    return model, params, hidden, numpy_llama.tensors_of(tmp_path_factory.mktemp("model"), model, params)


def states(tensors, model, row, sample):
    return numpy_llama.hidden_states(tensors, model.architecture, tiny.ids(BATCH, row, sample))


def test_a_score_is_read_after_the_last_real_token(setting):
    """Invariants 4 and 12: after the EOS, after the last token of a cut response, after the only token."""
    model, params, hidden, tensors = setting
    scores = heads.scores(params, BATCH, hidden)
    assert scores.dtype == jnp.float32
    for row, sample in ROWS:
        expected = states(tensors, model, row, sample)[-1] @ np.asarray(params["reward"]["kernel"], np.float64)
        assert float(scores[row, sample]) == pytest.approx(expected, abs=1e-4)
    assert np.isfinite(scores).all()


def test_scores_from_the_edge_equal_running_the_reward_model_whole(setting):
    """Invariants 9 and 12: from the trunk's states, and in a batch of one with longer padding."""
    model, params, hidden, _ = setting
    trunk, top = model.split(params)
    score = jit(lambda batch: heads.score_edge(model, trunk, top, batch, model.trunk(trunk, batch)))
    np.testing.assert_allclose(score(BATCH), heads.scores(params, BATCH, hidden), atol=1e-5)
    alone = tiny.sequences([1], [[1]], prompt=12, response=11, pad=77)
    alone.prompt[0, 0], alone.response[0, 0, 0] = BATCH.prompt[1, 0], BATCH.response[1, 0, 0]
    assert float(score(alone)[0, 0]) == pytest.approx(float(heads.scores(params, BATCH, hidden)[1, 0]), abs=1e-5)


def test_a_value_is_read_before_its_token(setting):
    model, params, hidden, tensors = setting
    values = heads.values(params, hidden)
    assert (values.shape, values.dtype) == ((3, 2, 8), jnp.float32)
    for row, sample in ROWS:
        length = int(BATCH.response_mask[row, sample].sum())
        expected = states(tensors, model, row, sample)[-length - 1 : -1] @ np.asarray(params["value"]["kernel"], float)
        np.testing.assert_allclose(values[row, sample, :length], expected, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_of_each_token_given_those_before_it(setting, temperature):
    model, params, hidden, tensors = setting
    log_probs, entropy = heads.log_probs(model, params, BATCH, hidden, temperature)
    for row, sample in ROWS:
        length, ids = int(BATCH.response_mask[row, sample].sum()), tiny.ids(BATCH, row, sample)
        predicted = numpy_llama.log_softmax(
            numpy_llama.logits(tensors, model.architecture, ids)[-length - 1 : -1] / temperature
        )
        expected = predicted[np.arange(length), ids[-length:]]
        np.testing.assert_allclose(log_probs[row, sample, :length], expected, atol=3e-4)
        np.testing.assert_allclose(entropy[row, sample, :length], -(np.exp(predicted) * predicted).sum(-1), atol=3e-4)
