"""Kernels over prompt and responses joined equal the dense reference, in value and gradient, on every real token."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.attention import packed
from rlhf_jax.models.attention.chunked import KeysValues
from rlhf_jax.models.attention.cudnn import cudnn
from rlhf_jax.models.attention.packed import MULTIPLE
from rlhf_jax.models.attention.splash import splash
from tests.dense_attention import assert_equal_with_gradients, dense_causal, dense_responses, holes, normal

pytestmark = pytest.mark.parametrize(
    "kernel", [partial(splash, interpret=True), partial(cudnn, implementation="xla")], ids=["splash", "cudnn"]
)


def of_real(function, mask):
    """`function` with 0 where the query is a filler token: there a kernel's result has no meaning."""
    return lambda *arguments: jnp.where(mask[..., None], function(*arguments), 0)


@pytest.mark.parametrize(("heads", "group", "length"), [(1, 1, 1), (2, 3, 9), (2, 1, MULTIPLE), (1, 2, MULTIPLE + 37)])
def test_causal_attends_to_real_tokens_up_to_itself(kernel, heads, group, length):
    mask = holes(4, 2, length)
    arguments = normal(0, 2, heads, group, length, 4), *(normal(seed, 2, heads, length, 4) for seed in (1, 2))

    def actual(q, k, v):
        return packed.causal(kernel, q, KeysValues(k, v), mask)

    def expected(q, k, v):
        return dense_causal(q, k, v, mask)

    real = mask[:, None, None]
    assert_equal_with_gradients(of_real(actual, real), of_real(expected, real), arguments)


@pytest.mark.parametrize(
    ("heads", "group", "samples", "length", "prompt"), [(2, 2, 3, 5, 6), (1, 1, 1, 1, 1), (1, 2, 3, 50, MULTIPLE + 2)]
)
def test_responses_attend_to_their_prompt_and_to_themselves(kernel, heads, group, samples, length, prompt):
    """One prompt is empty, masks have holes, responses lie across the tiles' borders."""
    arguments, mask, prompt_mask = problem(heads, group, samples, length, prompt)

    def actual(q, k, v, prompt_k, prompt_v):
        own, shared = KeysValues(k, v), KeysValues(prompt_k, prompt_v)
        return packed.responses(kernel, q, own, shared, mask, prompt_mask)

    def expected(*arguments):
        return dense_responses(*arguments, mask, prompt_mask)

    real = mask[:, None, :, None]
    assert_equal_with_gradients(of_real(actual, real), of_real(expected, real), arguments)


def problem(heads: int, group: int, samples: int, length: int, prompt: int):
    """`(q, k, v, prompt_k, prompt_v)` of two prompts, and the masks of responses and prompts. The second is empty."""
    mask, prompt_mask = holes(6, 2, samples, length), holes(7, 2, prompt)
    mask[..., 0], prompt_mask[1] = True, False
    own, shared = (2, heads, samples, length, 4), (2, heads, prompt, 4)
    shapes = (2, heads, samples, group, length, 4), own, own, shared, shared
    return tuple(normal(seed, *shape) for seed, shape in enumerate(shapes)), mask, prompt_mask


def test_fillers_are_never_read_and_stay_finite(kernel):
    """Loud keys and values of fillers change no real token. Fillers' own results and all gradients are finite, even
    where a loss reads fillers and a response is filler from its first token."""
    arguments, mask, prompt_mask = problem(1, 2, 2, 5, 6)
    mask[0, 1] = False

    @jax.jit
    def both(q, k, v, prompt_k, prompt_v):
        def attend(q, k, v, prompt_k, prompt_v):
            own, prompt = KeysValues(k, v), KeysValues(prompt_k, prompt_v)
            return packed.responses(kernel, q, own, prompt, mask, prompt_mask)

        out, pull = jax.vjp(attend, q, k, v, prompt_k, prompt_v)
        return out, pull(jnp.ones_like(out))

    out, gradients = both(*arguments)
    assert all(np.isfinite(x).all() for x in (out, *gradients))
    q, *rest = arguments
    hidden = (mask, mask, prompt_mask, prompt_mask)
    loud = (jnp.where(np.expand_dims(real, (1, -1)), x, 1e4) for x, real in zip(rest, hidden, strict=True))
    real = np.broadcast_to(mask[:, None, :, None], out.shape[:-1])
    np.testing.assert_array_equal(both(q, *loud)[0][real], out[real])
