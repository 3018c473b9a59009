"""Attention as the network calls it, and the choice of what computes it.

`causal` and `responses` read whole rows, in training and of prompts before sampling, by the kernel that `choose` names.
Decoding asks for one query a row and waits for the cache to be read from memory. It is `merge(cached, shared)` of
`attention_parts` on every platform.

Shape letters: B prompts, N responses of one prompt, P prompt length, S queries' tokens, K KV heads, G queries of one
KV head, d head width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice

from rlhf_jax.models.attention import chunked, packed
from rlhf_jax.models.attention.chunked import KeysValues, merge, shared
from rlhf_jax.models.attention.packed import Kernel
from rlhf_jax.parallel import sharding


def choose(
    device: jax.Device | AbstractDevice, dtype: jnp.dtype, width: int, length: int, window: int | None
) -> Kernel | None:
    """The kernel for attention over whole rows, or None for attention in parts.

    - A window shorter than the row: in parts. A window counts real tokens. Which keys it holds is data, and the kernels
      skip work by rules over shapes.
    - TPU, float32 or bfloat16: splash attention.
    - NVIDIA GPU of compute capability 8.0 or later, bfloat16 or float16, head width a multiple of 8 up to 128: cuDNN.
    - All else, CPUs included: in parts.

    Args:
      device: what the network runs on.
      dtype: of queries, keys and values.
      width: d.
      length: the most tokens that one row holds, prompt and response together.
      window: how many real tokens a token sees, itself included. None for all.
    """
    if window is not None and window < length:
        return None
    if device.platform == "tpu" and dtype in (jnp.float32, jnp.bfloat16):
        from rlhf_jax.models.attention.splash import splash

        return splash
    if device.platform == "gpu" and dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= 128:
        major = device.compute_capability.partition(".")[0]  # "9.0" of a CUDA device; "gfx942" of a ROCm one
        if major.isdecimal() and int(major) >= 8:
            from rlhf_jax.models.attention.cudnn import cudnn

            return cudnn
    return None


def causal(q: jax.Array, own: KeysValues, mask: jax.Array, window: int | None = None) -> jax.Array:
    """Each token attends to the real tokens up to itself.

    Args:
      q: `[B, K, G, S, d]`, scaled.
      own: `[B, K, S, d]`.
      mask: `[B, S]` bool, true on real tokens.
      window: how many real tokens a token sees, itself included. None for all.

    Returns:
      `[B, K, G, S, d]` in q's dtype. Rows of filler tokens hold finite numbers without meaning.
    """
    kernel = choose(sharding.device(), q.dtype, q.shape[-1], mask.shape[1], window)
    if kernel is None:
        return chunked.causal(q, own, mask, window).out
    return packed.causal(kernel, q, own, mask)


def responses(
    q: jax.Array,
    own: KeysValues,
    prompt: KeysValues,
    own_mask: jax.Array,
    prompt_mask: jax.Array,
    positions: jax.Array,
    window: int | None = None,
) -> jax.Array:
    """Each token of N responses attends to the prompt that they share and to its own response up to itself.

    Args:
      q: `[B, K, N, G, S, d]`, scaled.
      own: `[B, K, N, S, d]`.
      prompt: `[B, K, P, d]`.
      own_mask: `[B, N, S]` bool, true on real tokens.
      prompt_mask: `[B, P]` bool.
      positions: `[B, N, S]` of the responses' tokens, counted from the prompt's first real token.
      window: how many real tokens a token sees, itself included. None for all.

    Returns:
      `[B, K, N, G, S, d]` in q's dtype. Rows of filler tokens hold finite numbers without meaning.
    """
    kernel = choose(sharding.device(), q.dtype, q.shape[-1], prompt_mask.shape[1] + own_mask.shape[2], window)
    if kernel is None:
        part = chunked.causal(q, own, own_mask, window)
        return merge(part, shared(q, prompt, prompt_mask, positions, window))
    return packed.responses(kernel, q, own, prompt, own_mask, prompt_mask)
