"""The network: equal to a NumPy LLaMA, blind to padding and batch mates, the same cut at the trunk's edge or whole."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Model, merge
from rlhf_jax.parallel.jit import jit
from tests import numpy_llama, tiny

# Prompts of one token too. Responses that ended in EOS (id 1, which is also the pad id), a cut one, one of one token.
BATCH = tiny.sequences([7, 1, 4], [[5, 8], [1, 3], [8, 2]], prompt=9, response=8)
BATCH.response[0, 1, 7] = 17  # cut by the length limit: no EOS


def rows(batch: Sequences) -> list[tuple[int, int]]:
    return [(row, sample) for row in range(batch.response.shape[0]) for sample in range(batch.response.shape[1])]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def network(request, tmp_path_factory):
    """`(model, params, tensors)` of both kinds of head."""
    model, params = tiny.network(tied=request.param)
    return model, params, numpy_llama.tensors_of(tmp_path_factory.mktemp("model"), model, params)


def test_logits_equal_the_oracle_with_any_padding_and_any_batch_mates(network):
    """Invariant 3: padding on the right, on the left, on both sides and in between, in one batch."""
    model, params, tensors = network
    sequences = [tiny.ids(BATCH, row, sample) for row, sample in ((0, 0), (0, 1), (2, 1), (1, 1))]
    assert [len(ids) for ids in sequences] == [12, 15, 6, 4]
    places = [range(12), range(5, 20), range(3, 9), [2, 3, 11, 17]]
    tokens, mask = np.full((4, 20), 1, np.int32), np.zeros((4, 20), np.int32)
    for row, (ids, place) in enumerate(zip(sequences, places, strict=True)):
        tokens[row, place], mask[row, place] = ids, 1
    logits = np.asarray(jit(model.logits)(params, tokens, mask))
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    for row, (ids, place) in enumerate(zip(sequences, places, strict=True)):
        expected = numpy_llama.logits(tensors, model.architecture, ids)
        np.testing.assert_allclose(logits[row, place], expected, atol=2e-4)


def test_trunk_then_top_equals_running_each_sequence_whole(tmp_path):
    """Invariant 12, also for EOS-finished, cut and one-token responses. N samples equal N separate prompts."""
    model, params = tiny.network()
    tensors = numpy_llama.tensors_of(tmp_path, model, params)
    trunk, top = model.split(params)
    edge = jit(model.trunk)(trunk, BATCH)
    hidden = jit(lambda trunk, top, edge: model.top(merge(trunk, top), BATCH, edge))(trunk, top, edge)
    assert hidden.shape == (3, 2, 9, 32)
    for row, sample in rows(BATCH):
        ids = tiny.ids(BATCH, row, sample)
        expected = numpy_llama.hidden_states(tensors, model.architecture, ids)
        real = int(BATCH.response_mask[row, sample].sum()) + 1
        np.testing.assert_allclose(hidden[row, sample, :real], expected[-real:], atol=5e-5)


def run(model, params, batch):
    """Trunk and top in one program."""
    return jit(lambda params, batch: model.top(params, batch, model.trunk(params, batch)))(params, batch)


@pytest.fixture(scope="module")
def hidden():
    """The states of `BATCH`, one block frozen."""
    return run(*tiny.network(), BATCH)


def test_states_do_not_change_with_padding_and_batch_mates(hidden):
    """Invariant 3, through trunk and top: more padding, other batch mates, another number of samples."""
    model, params = tiny.network()
    alone = Sequences(
        np.pad(BATCH.prompt[2:], ((0, 0), (0, 5)), constant_values=44),
        np.pad(BATCH.prompt_mask[2:], ((0, 0), (0, 5))),
        np.pad(BATCH.response[2:, 1:], ((0, 0), (0, 0), (0, 3)), constant_values=44),
        np.pad(BATCH.response_mask[2:, 1:], ((0, 0), (0, 0), (0, 3))),
    )
    real = int(BATCH.response_mask[2, 1].sum()) + 1
    np.testing.assert_allclose(run(model, params, alone)[0, 0, :real], hidden[2, 1, :real], atol=5e-6)


def test_the_whole_network_is_differentiable_through_prompt_and_response():
    """The gradient by every parameter equals that of the plain causal network on joined rows."""
    model, params = tiny.network(layers=2)
    weights = jax.random.normal(jax.random.key(1), (3, 2, 9, 32)) * BATCH.continuation()[1][..., None]

    def shared(params):
        return jnp.sum(model.top(params, BATCH, model.trunk(params, BATCH)) * weights)

    joined = [tiny.ids(BATCH, row, sample) for row, sample in rows(BATCH)]
    tokens, mask = np.zeros((6, 17), np.int32), np.zeros((6, 17), bool)
    cotangents = np.zeros((6, 17, 32), np.float32)
    for i, (ids, (row, sample)) in enumerate(zip(joined, rows(BATCH), strict=True)):
        real = int(BATCH.response_mask[row, sample].sum()) + 1
        tokens[i, : len(ids)], mask[i, : len(ids)] = ids, True
        cotangents[i, len(ids) - real : len(ids)] = weights[row, sample, :real]

    def plain(params):
        positions = jnp.cumsum(mask, axis=1) - 1
        x, angles = model.embed(params, tokens, positions), model.angles(positions)
        for layer in range(2):
            x, _ = model.read_context(params["layers"][str(layer)], layer, x, jnp.asarray(mask), angles)
        return jnp.sum(model.finish(params, x) * cotangents)

    actual, expected = jit(jax.grad(shared))(params), jit(jax.grad(plain))(params)
    for (path, a), e in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, atol=2e-4 * float(jnp.abs(e).max() + 1e-3), err_msg=str(path))


def test_bfloat16_states_are_the_same_cut_or_whole():
    """Two programs instead of one change no bit, as `run.jit` promises."""
    model, params = tiny.network(0.5, dtype="bfloat16", layers=2)
    trunk, top = model.split(params)
    edge = jit(model.trunk)(trunk, BATCH)
    assert edge.context.dtype == edge.continuation.dtype == jnp.bfloat16
    cut = jit(lambda top, edge: model.top(merge(trunk, top), BATCH, edge))(top, edge)
    tiny.assert_same(cut, run(model, params, BATCH))


def test_split_and_merge_are_inverse_and_copy_nothing():
    model, params = tiny.network(tied=False)
    params = tiny.with_role(params, "value")
    trunk, top = model.split(params)
    assert sorted(trunk) == ["embed", "head", "layers"]
    assert sorted(top) == ["layers", "norm", "value"]
    assert (sorted(trunk["layers"]), sorted(top["layers"])) == (["0"], ["1", "2"])
    joined = merge(trunk, top)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    assert all(a is b for a, b in zip(jax.tree.leaves(joined), jax.tree.leaves(params), strict=True))


@pytest.mark.parametrize(("freeze", "layers", "frozen"), [(0.8, 32, 25), (0.8, 12, 9), (0.8, 24, 19), (0.0, 5, 0)])
def test_frozen_blocks_are_those_of_the_study(freeze, layers, frozen):
    assert Model(tiny.architecture(layers=layers), jnp.float32, freeze).frozen_layers == frozen


def test_every_parameter_names_its_logical_axes():
    model, _ = tiny.network(tied=False)
    boxed = jax.eval_shape(model.init, jax.random.key(0))
    leaves = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))
    assert all(isinstance(leaf, nn.LogicallyPartitioned) for leaf in leaves)
    assert all(len(leaf.names) == leaf.value.ndim and all(leaf.names) for leaf in leaves)
