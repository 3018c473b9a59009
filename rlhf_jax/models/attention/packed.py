"""Prompt and responses as one attention per prompt, for kernels that neither take nor return parts of it.

The tokens of all N responses are the queries. The keys are the prompt's, once, followed by all the responses' own. A
static rule (`sees`) keeps the responses apart and causal. Data says which tokens are real. A kernel is a function of a
`Joined`. This module lays the arrays out for it and takes its result apart.

Shape letters as in `chunked`, and H = K * G. Q = N * S and P' = P, rounded up to multiples of `MULTIPLE`. T = P' + Q.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlhf_jax.models.attention.chunked import KeysValues

MULTIPLE = 128  # splash attention's tiles have to divide a length, and cuDNN's tiles are no larger


class Joined(NamedTuple):
    """Arguments of a kernel.

    Attributes:
      queries: `[B, H, Q, d]`, scaled. The G heads that share a KV head stand together.
      keys: `[B, K, T, d]`, the prompt's and then the responses' own, each with its filling.
      values: `[B, K, T, d]`.
      real: `[B, T]` bool, false on filler tokens. Real tokens attend to real ones and fillers to fillers, in both cases
        where `sees` allows it: every query sees at least itself, so that no softmax is over nothing.
      prompt: P'.
      response: S, the length of each response.
    """

    queries: jax.Array
    keys: jax.Array
    values: jax.Array
    real: jax.Array
    prompt: int
    response: int


type Kernel = Callable[[Joined], jax.Array]  # to the queries' shape and dtype


def sees[A: (jax.Array, np.ndarray)](query: A, key: A, prompt: int, response: int) -> A:
    """True if query `query` of Q may see key `key` of T: all of the prompt, and its own response up to itself.

    Both are integers and broadcast. `prompt` is P' and `response` S.
    """
    own = key - prompt
    return (own < 0) | ((own <= query) & (own >= query - query % response))


def responses(
    kernel: Kernel,
    q: Float[Array, "B K N G S d"],
    own: KeysValues,
    prompt: KeysValues,
    own_mask: Bool[Array, "B N S"],
    prompt_mask: Bool[Array, "B P"],
) -> Float[Array, "B K N G S d"]:
    """`dispatch.responses` without a window, by a kernel."""
    batch, kv_heads, samples, group, length, width = q.shape
    tokens = samples * length

    def join(of_prompt: jax.Array, of_own: jax.Array, axis: int) -> jax.Array:
        return jnp.concatenate([_fill(of_prompt, axis), _fill(of_own, axis)], axis=axis)

    queries = _fill(jnp.moveaxis(q, 2, 3).reshape(batch, kv_heads * group, tokens, width), 2)
    keys, values = (
        join(of_prompt, of_own.reshape(batch, kv_heads, tokens, width), 2)
        for of_prompt, of_own in zip(prompt, own, strict=True)
    )
    real = join(prompt_mask, own_mask.reshape(batch, tokens), 1)
    out = kernel(Joined(queries, keys, values, real, keys.shape[2] - queries.shape[2], length))
    return jnp.moveaxis(out[:, :, :tokens].reshape(batch, kv_heads, group, samples, length, width), 3, 2)


def causal(
    kernel: Kernel, q: Float[Array, "B K G S d"], own: KeysValues, mask: Bool[Array, "B S"]
) -> Float[Array, "B K G S d"]:
    """`dispatch.causal` without a window, by a kernel: one response to a prompt of no tokens."""
    nothing = KeysValues(*(x[:, :, :0] for x in own))
    one = KeysValues(*(x[:, :, None] for x in own))
    return responses(kernel, q[:, :, None], one, nothing, mask[:, None], mask[:, :0])[:, :, 0]


def _fill(x: jax.Array, axis: int) -> jax.Array:
    """Zeros (or false) at the end of `axis`, up to the next multiple of `MULTIPLE`."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % MULTIPLE)
    return jnp.pad(x, widths)
