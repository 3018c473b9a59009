"""Splash attention, JAX's block-sparse flash attention kernel for TPUs, over prompt and responses joined.

Blocks of the mask that are empty (one response's queries, another's keys) are never visited. Only the distinct partial
blocks are stored: the mask is a rule, and no array of `[Q, T]` exists. Shape letters as in `packed`.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jaxtyping import Array, Float

from rlhf_jax.models.attention.packed import Joined, sees
from rlhf_jax.parallel import sharding

BLOCKS = (512, 256, 128)  # edges of the kernel's tiles, of which large ones keep the matrix unit busy


@dataclasses.dataclass(frozen=True)
class JoinedMask(splash_mask.Mask):
    """`packed.sees`, read tile by tile. Equal masks hash alike, so that JAX prepares each only once."""

    queries: int
    prompt: int
    response: int

    @property
    def shape(self) -> tuple[int, int]:
        """`(Q, T)`."""
        return self.queries, self.prompt + self.queries

    def __getitem__(self, tile: tuple[slice, slice]) -> np.ndarray:
        queries, keys = (np.arange(size)[part] for size, part in zip(self.shape, tile, strict=True))
        return sees(queries[:, None], keys, self.prompt, self.response)


def splash(joined: Joined, interpret: bool = False) -> Float[Array, "B H Q d"]:
    """Attention by the splash kernel in float32 or bfloat16, with any head width, differentiable.

    Segment ids keep fillers from real tokens, 1 for real and 0 for filler. `interpret` runs the kernel as plain JAX
    operations, on any platform and slowly, for tests.
    """
    heads = ("batch", "kv_heads")
    kernel = partial(_splash, joined.prompt, joined.response, interpret)
    return sharding.on_each(kernel, (heads, heads, heads, ("batch",)), heads)(*joined[:4])


def _splash(
    prompt: int, response: int, interpret: bool, queries: jax.Array, keys: jax.Array, values: jax.Array, real: jax.Array
) -> jax.Array:
    """The kernel on one device, over its shard of the prompts and of the heads."""
    heads, length = queries.shape[1:3]
    query, key = (next(block for block in BLOCKS if size % block == 0) for size in (length, keys.shape[2]))
    kernel = splash_kernel.make_splash_mha(
        splash_mask.MultiHeadMask([JoinedMask(length, prompt, response)] * heads),
        block_sizes=splash_kernel.BlockSizes(
            block_q=query, block_kv=key, block_q_dkv=query, block_kv_dkv=key, block_q_dq=query, block_kv_dq=key
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    segments = real.astype(jnp.int32)
    return jax.vmap(kernel)(queries, keys, values, splash_kernel.SegmentIds(segments[:, prompt:], segments))
