"""Attention as the network calls it, and the choice of what computes it.

`causal` and `responses` read whole rows, in training and of prompts before sampling, by the kernel that `choose` names.
Decoding has one query per row and waits for the cache to be read from memory. It is `merge(cached, shared)` of
`chunked` on every platform.

Both return the shape and dtype of `q`. Rows of filler tokens contain finite numbers without meaning. Scaled queries,
windows and shape letters as in `chunked`.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.attention import chunked, packed
from rlhf_jax.models.attention.chunked import KeysValues, merge, shared
from rlhf_jax.models.attention.packed import Kernel
from rlhf_jax.parallel import sharding


def choose(
    device: jax.Device | AbstractDevice, dtype: jnp.dtype, width: int, length: int, window: int | None
) -> Kernel | None:
    """The kernel for attention over whole rows, or None for attention in parts.

    - A window shorter than the row: in parts. A window counts real tokens. The keys that it contains are data, and the
      kernels skip work by rules over shapes.
    - TPU, float32 or bfloat16: splash attention.
    - NVIDIA GPU of compute capability 8.0 or later, bfloat16 or float16, head width a multiple of 8 up to 128: cuDNN.
    - All else, CPUs included: in parts.

    `dtype` is that of queries, keys and values, `width` is d, and `length` the largest number of tokens in a row,
    prompt and response together.
    """
    if window is not None and window < length:
        return None
    if device.platform == "tpu" and dtype in (jnp.float32, jnp.bfloat16):
        from rlhf_jax.models.attention.splash import splash

        return splash
    if device.platform == "gpu" and dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= 128:
        major = device.compute_capability.partition(".")[0]  # "9.0" of a CUDA device, "gfx942" of a ROCm one
        if major.isdecimal() and int(major) >= 8:
            from rlhf_jax.models.attention.cudnn import cudnn

            return cudnn
    return None


def causal(
    q: Float[Array, "B K G S d"], own: KeysValues, mask: Bool[Array, "B S"], window: int | None = None
) -> Float[Array, "B K G S d"]:
    """Each token attends to the real tokens up to itself. `mask` is true on real tokens."""
    kernel = choose(sharding.device(), q.dtype, q.shape[-1], mask.shape[1], window)
    if kernel is None:
        return chunked.causal(q, own, mask, window).out
    return packed.causal(kernel, q, own, mask)


def responses(
    q: Float[Array, "B K N G S d"],
    own: KeysValues,
    prompt: KeysValues,
    own_mask: Bool[Array, "B N S"],
    prompt_mask: Bool[Array, "B P"],
    positions: Int[Array, "B N S"],
    window: int | None = None,
) -> Float[Array, "B K N G S d"]:
    """Each token of N responses attends to the prompt that they share and to its own response up to itself.

    Masks are true on real tokens. `positions` are as in `chunked.shared`.
    """
    kernel = choose(sharding.device(), q.dtype, q.shape[-1], prompt_mask.shape[1] + own_mask.shape[2], window)
    if kernel is None:
        part = chunked.causal(q, own, own_mask, window)
        return merge(part, shared(q, prompt, prompt_mask, positions, window))
    return packed.responses(kernel, q, own, prompt, own_mask, prompt_mask)
