"""Layers: dense with its own backward pass, norms, rotary positions, gated MLP.

Shape letters: T tokens (all leading axes flattened), D model width, F MLP width, K KV heads, G queries of one KV head,
H = K * G heads, d head width. Every module declares the logical axes of its parameters once, by
`nn.with_logical_partitioning`; sharding, initialisation and restore all read them from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

TILE = 64  # edge of the blocks in which the CPU weight gradient transposes its activations


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[T, D] @ [D, F] -> [T, F]`, with a weight gradient that the CPU compiler runs at full speed.

    XLA's CPU backend falls back to float32 when it folds a transpose into a bfloat16 dot. So the gradient by the input
    contracts the kernel's last axis without a transpose, and the activations are transposed through tiles, which
    cannot be folded. Other backends get the plain product. Measured in `docs/performance.md`.
    """
    return x @ kernel


def _matmul_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _matmul_backward(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    tokens, width = x.shape
    if jax.default_backend() == "cpu" and tokens % TILE == 0 and width % TILE == 0:
        tiles = x.reshape(tokens // TILE, TILE, width // TILE, TILE)
        x_transposed = tiles.transpose(2, 3, 0, 1).reshape(width, tokens)
    else:
        x_transposed = x.T
    return jnp.einsum("tf,df->td", dy, kernel), x_transposed @ dy


matmul.defvjp(_matmul_forward, _matmul_backward)


def dense(x: jax.Array, kernel: jax.Array, contract: int = 1) -> jax.Array:
    """Contracts the last `contract` axes of `x` with the first of `kernel`, in `x`'s dtype, tokens flattened.

    Args:
      x: `[..., *inputs]`.
      kernel: `[*inputs, *outputs]`, cast to `x.dtype`.
      contract: the number of input axes.

    Returns:
      `[..., *outputs]`.
    """
    leading, inputs, outputs = x.shape[: x.ndim - contract], kernel.shape[:contract], kernel.shape[contract:]
    width = math.prod(inputs)
    y = matmul(x.reshape(-1, width), kernel.astype(x.dtype).reshape(width, -1))
    return y.reshape(*leading, *outputs)


class Dense(nn.Module):
    """A linear map between axis groups, without bias: `[..., *inputs] -> [..., *outputs]`."""

    inputs: Sequence[int]
    outputs: Sequence[int]
    axes: Sequence[str]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        deviation = math.prod(self.inputs) ** -0.5
        init = nn.with_logical_partitioning(nn.initializers.normal(deviation), tuple(self.axes))
        kernel = self.param("kernel", init, (*self.inputs, *self.outputs), jnp.float32)
        return dense(x, kernel, len(self.inputs))


class RMSNorm(nn.Module):
    """`x / rms(x) * scale` over the last axis, in float32 inside and `x.dtype` outside (Zhang and Sennrich, 2019)."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return normed.astype(x.dtype) * scale.astype(x.dtype)


def rotary_angles(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of rotary embeddings (Su et al., 2021), computed once for all layers.

    Args:
      positions: `[...]` integer positions of real tokens.
      head_dim: d, even.
      theta: base of the wavelengths.

    Returns:
      Two float32 arrays `[..., d / 2]`.
    """
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates `x` `[..., heads, d]` by angles `[..., d / 2]`; pairs are the halves of d, as in Hugging Face."""
    cos, sin = (a[..., None, :].astype(x.dtype) for a in angles)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class GatedMLP(nn.Module):
    """`down(silu(gate(x)) * up(x))` (Shazeer, 2020); gate and up are one product."""

    width: int
    features: int

    def setup(self) -> None:
        self.gate_up = Dense((self.width,), (2, self.features), ("embed", "gate_up", "mlp"))
        self.down = Dense((self.features,), (self.width,), ("mlp", "embed"))

    def __call__(self, x: jax.Array) -> jax.Array:
        gate_up = self.gate_up(x)
        return self.down(nn.silu(gate_up[..., 0, :]) * gate_up[..., 1, :])


Angles = tuple[jax.Array, jax.Array]
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Block(nn.Module):
    """One pre-norm decoder block. It knows nothing of masks, prompts or caches: the caller passes `attend`.

    `attend(q, k, v) -> out` gets scaled queries `[..., K, G, d]`, keys and values `[..., K, d]` and returns the shape
    of `q`.
    """

    width: int
    kv_heads: int
    group: int
    head_dim: int
    mlp_features: int
    epsilon: float

    def setup(self) -> None:
        qkv = (self.kv_heads, self.group + 2, self.head_dim)
        heads = (self.kv_heads, self.group, self.head_dim)
        self.attention_norm = RMSNorm(self.epsilon)
        self.qkv = Dense((self.width,), qkv, ("embed", "kv_heads", "qkv", "head_dim"))
        self.out = Dense(heads, (self.width,), ("kv_heads", "group", "head_dim", "embed"))
        self.mlp_norm = RMSNorm(self.epsilon)
        self.mlp = GatedMLP(self.width, self.mlp_features)

    def __call__(self, x: jax.Array, angles: Angles, attend: Attend) -> jax.Array:
        """`[..., D] -> [..., D]`."""
        x = x + self.out(attend(*self.queries_keys_values(x, angles)))
        return x + self.mlp(self.mlp_norm(x))

    def queries_keys_values(self, x: jax.Array, angles: Angles) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`[..., D] ->` rotated, scaled queries `[..., K, G, d]`, rotated keys, values `[..., K, d]`: one product."""
        qkv = self.qkv(self.attention_norm(x))
        leading = qkv.shape[:-3]
        rotated = rotate(qkv[..., : self.group + 1, :].reshape(*leading, -1, self.head_dim), angles)
        rotated = rotated.reshape(*leading, self.kv_heads, self.group + 1, self.head_dim)
        queries = rotated[..., : self.group, :] * jnp.asarray(self.head_dim**-0.5, x.dtype)
        return queries, rotated[..., self.group, :], qkv[..., self.group + 1, :]
