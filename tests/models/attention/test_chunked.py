"""Attention in parts equals one softmax over all the keys, in value and in gradient, whatever the masks hide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.attention import chunked
from rlhf_jax.models.attention.chunked import CHUNK, KeysValues
from tests.dense_attention import assert_equal_with_gradients, dense, dense_causal, dense_responses, holes, normal


@pytest.fixture
def qkv():
    """`q [2, 3, 5, 4]`, `k` and `v [2, 3, 7, 4]`, and a mask `[2, 1, 5, 7]` with holes, but no row sees nothing."""
    mask = holes(3, 2, 1, 5, 7)
    mask[..., 0] |= ~mask.any(axis=-1)
    return normal(0, 2, 3, 5, 4), normal(1, 2, 3, 7, 4), normal(2, 2, 3, 7, 4), mask


def test_attend_returns_the_log_sum_exp_of_the_visible_scores(qkv):
    """In value and in gradient: merging parts differentiates through it."""
    q, k, v, mask = qkv

    def lse(q, k):
        return jax.nn.logsumexp(jnp.where(mask, jnp.einsum("...sd,...td->...st", q, k), -jnp.inf), axis=-1)

    assert_equal_with_gradients(lambda q, k: chunked.attend(q, k, v, mask).lse, lse, (q, k))


def test_a_part_that_sees_nothing_weighs_nothing_once_merged(qkv):
    """Neither in value nor in gradient: the prompt of one token has an empty context."""
    q, k, v, mask = qkv

    def merged(q, k, v, unseen_k, unseen_v):
        own = chunked.attend(q, k, v, mask)
        return chunked.merge(own, chunked.attend(q, unseen_k, unseen_v, np.zeros((1, 1, 5, 7), bool)))

    out, pull = jax.vjp(merged, q, k, v, 50 * k, 50 * v)
    np.testing.assert_allclose(out, dense(q, k, v, mask), atol=2e-6)
    for gradient in pull(jnp.ones_like(out))[3:]:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_merged_parts_over_disjoint_keys_are_attention_over_their_union(qkv):
    *arguments, mask = qkv
    mask = np.array(mask)
    mask[0, 0, 1, 3:] = False  # one query sees the first part only, another the second only
    mask[0, 0, 2, :3] = False

    def merged(q, k, v):
        parts = [
            chunked.attend(q, k[..., keys, :], v[..., keys, :], mask[..., keys])
            for keys in (slice(0, 3), slice(3, None))
        ]
        return chunked.merge(*parts)

    assert_equal_with_gradients(merged, lambda q, k, v: dense(q, k, v, mask), arguments)


@pytest.mark.parametrize(("length", "window"), [(1, None), (CHUNK, None), (CHUNK + 37, None), (CHUNK + 37, 20), (9, 1)])
def test_causal_attends_to_real_tokens_up_to_itself(length, window):
    """Grouped queries, holes in the mask (fillers on any side), lengths at and past one chunk, windows within."""
    mask = holes(4, 2, length)
    arguments = normal(0, 2, 2, 3, length, 4), normal(1, 2, 2, length, 4), normal(2, 2, 2, length, 4)

    def actual(q, k, v):
        return chunked.causal(q, KeysValues(k, v), mask, window).out

    assert_equal_with_gradients(actual, lambda *arguments: dense_causal(*arguments, mask, window), arguments)


@pytest.mark.parametrize("window", [None, 1, 3, 7])
def test_responses_that_share_a_prompt_attend_to_it_and_to_themselves(window):
    """`merge(causal, shared)` of N responses is N plain softmaxes over prompt and response. One prompt is empty."""
    batch, samples, length, prompt_length = 3, 2, 5, 6
    prompt_mask = np.arange(prompt_length) < np.array([4, 0, 6])[:, None]
    mask = np.arange(length) < np.array([[5, 2], [1, 5], [3, 4]])[..., None]
    arguments = (
        normal(0, batch, 2, samples, 2, length, 4),
        *(normal(seed, batch, 2, samples, length, 4) for seed in (1, 2)),
        *(normal(seed, batch, 2, prompt_length, 4) for seed in (3, 4)),
    )

    def actual(q, k, v, prompt_k, prompt_v):
        positions = prompt_mask.sum(-1)[:, None, None] + np.cumsum(mask, -1) - 1
        own, prompt = KeysValues(k, v), KeysValues(prompt_k, prompt_v)
        part = chunked.causal(q, own, mask, window)
        return chunked.merge(part, chunked.shared(q, prompt, prompt_mask, positions, window))

    def expected(*arguments):
        return dense_responses(*arguments, mask, prompt_mask, window)

    assert_equal_with_gradients(actual, expected, arguments)


def test_one_token_at_a_time_through_the_cache_is_causal_attention():
    length = 4
    q, k, v = normal(0, 2, 2, 3, 2, length, 4), normal(1, 2, 2, 3, length, 4), normal(2, 2, 2, 3, length, 4)
    whole = chunked.causal(q, KeysValues(k, v), np.ones((2, 3, length), bool))
    cache = KeysValues(*(jnp.full(k.shape, 1e4) for _ in range(2)))  # what is not filled yet is not read
    for slot in range(length):
        cache = KeysValues(
            *(old.at[..., slot, :].set(new[..., slot, :]) for old, new in zip(cache, (k, v), strict=True))
        )
        part = chunked.cached(q[..., slot : slot + 1, :], cache, np.arange(length) <= slot)
        np.testing.assert_allclose(part.out[..., 0, :], whole.out[..., slot, :], atol=1e-6)
        np.testing.assert_allclose(part.lse[..., 0], whole.lse[..., slot], atol=1e-6)


def test_bfloat16_goes_in_and_out_and_is_summed_in_float32(qkv):
    q, k, v, mask = (leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf for leaf in qkv)
    part, pull = jax.vjp(lambda q, k, v: chunked.attend(q, k, v, mask), q, k, v)
    assert (part.out.dtype, part.lse.dtype) == (jnp.bfloat16, jnp.float32)
    assert {leaf.dtype.name for leaf in pull(part)} == {"bfloat16"}
    expected = dense(*(leaf.astype(jnp.float32) for leaf in (q, k, v)), mask)
    np.testing.assert_allclose(part.out.astype(jnp.float32), expected, atol=0.02)
