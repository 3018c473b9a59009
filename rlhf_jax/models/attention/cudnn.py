"""Fused attention by cuDNN over prompt and responses joined. Shape letters as in `packed`."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.models.attention.packed import Joined, sees


def cudnn(joined: Joined, implementation: Literal["cudnn", "xla"] = "cudnn") -> Float[Array, "B H Q d"]:
    """Attention by `jax.nn.dot_product_attention`, differentiable, in the queries' dtype.

    cuDNN gets the mask as an array of `[B, 1, Q, T]`, which all heads share, and skips no part of it: a prompt's work
    grows with the square of N. In training N is small.

    Not run on a GPU yet: the mask and the layout are tested on CPU, by the implementation "xla".

    Args:
      joined: bfloat16 or float16, head width a multiple of 8 and at most 128.
      implementation: "xla" computes the same as plain JAX operations, in any dtype and on any platform, for tests.
    """
    query, key = (jnp.arange(x.shape[2]) for x in (joined.queries, joined.keys))
    alike = joined.real[:, joined.prompt :, None] == joined.real[:, None, :]
    visible = alike & sees(query[:, None], key, joined.prompt, joined.response)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (joined.queries, joined.keys, joined.values))
    out = jax.nn.dot_product_attention(q, k, v, mask=visible[:, None], scale=1.0, implementation=implementation)
    return jnp.swapaxes(out, 1, 2)
