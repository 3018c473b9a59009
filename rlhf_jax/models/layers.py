"""Layers: dense, norms, rotary positions, gated MLP, the decoder block.

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

from rlhf_jax.models.products import dense, matmul_gradients


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
    """Rotates `x` `[..., d]` by angles that broadcast to `[..., d / 2]`; pairs are the two halves of d."""
    cos, sin = (a.astype(x.dtype) for a in angles)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


@jax.custom_vjp
def gate_and_up(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`[T, D]` and `[D, 2, F]` to gate and up, `[T, F]` each: one product forward, one for each backward.

    Joined backward, the gradient of the activation would be computed twice for every entry.
    """
    both = x @ kernel.reshape(kernel.shape[0], -1)
    features = kernel.shape[2]
    return both[:, :features], both[:, features:]


def _gate_and_up_forward(x: jax.Array, kernel: jax.Array):
    return gate_and_up(x, kernel), (x, kernel)


def _gate_and_up_backward(residuals: tuple[jax.Array, jax.Array], gradients: tuple[jax.Array, jax.Array]):
    x, kernel = residuals
    halves = [matmul_gradients((x, kernel[:, i]), dy) for i, dy in enumerate(gradients)]
    return halves[0][0] + halves[1][0], jnp.stack([halves[0][1], halves[1][1]], axis=1)


gate_and_up.defvjp(_gate_and_up_forward, _gate_and_up_backward)


class GatedMLP(nn.Module):
    """`down(silu(gate(x)) * up(x))` (Shazeer, 2020); gate and up are one product."""

    width: int
    features: int

    def setup(self) -> None:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.width**-0.5), ("embed", "gate_up", "mlp"))
        self.gate_up = self.param("gate_up", init, (self.width, 2, self.features), jnp.float32)
        self.down = Dense((self.features,), (self.width,), ("mlp", "embed"))

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up = gate_and_up(x.reshape(-1, self.width), self.gate_up.astype(x.dtype))
        return self.down(nn.silu(gate) * up).reshape(x.shape)


Angles = tuple[jax.Array, jax.Array]
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Block(nn.Module):
    """One pre-norm decoder block. It knows nothing of masks, prompts or caches: the caller passes `attend`.

    `attend(q, k, v) -> out` gets scaled queries `[B, K, ..., G, S, d]`, keys and values `[B, K, ..., S, d]`, and
    returns the shape of `q`.
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
        """`[B, ..., S, D] -> [B, ..., S, D]`."""
        mixed = attend(*self.queries_keys_values(x, angles))
        mixed = jnp.moveaxis(jnp.moveaxis(mixed, 1, -4), -2, -4)  # [B, ..., S, K, G, d]
        x = x + self.out(mixed)
        return x + self.mlp(self.mlp_norm(x))

    def queries_keys_values(self, x: jax.Array, angles: Angles) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Scaled and rotated queries, rotated keys, and values, by one product.

        Heads move to the front before the rotation: between a transpose and the attention's dots stands arithmetic, so
        the compiler cannot fold the transpose into them (see `contract_rows`).

        Args:
          x: `[B, ..., S, D]`.
          angles: `[B, ..., S, d / 2]` each.

        Returns:
          `[B, K, ..., G, S, d]`, `[B, K, ..., S, d]`, `[B, K, ..., S, d]`.
        """
        qkv = self.qkv(self.attention_norm(x))  # [B, ..., S, K, G + 2, d]
        qkv = jnp.moveaxis(jnp.moveaxis(qkv, -4, -2), -4, 1)  # [B, K, ..., G + 2, S, d]
        cos, sin = (jnp.expand_dims(a, (1, -3)) for a in angles)
        rotated = rotate(qkv[..., : self.group + 1, :, :], (cos, sin))
        queries = rotated[..., : self.group, :, :] * jnp.asarray(self.head_dim**-0.5, x.dtype)
        return queries, rotated[..., self.group, :, :], qkv[..., self.group + 1, :, :]
