"""Layers: dense, norms, rotary positions, MLPs.

Shape letters: T tokens (all leading axes flattened), D model width, F MLP width, d head width. Every module declares
the logical axes of its parameters once, by `nn.with_logical_partitioning`. Sharding, initialisation and restore all
read them from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.models.matmul import dense, matmul_gradients

Activation = Callable[[jax.Array], jax.Array]


class Dense(nn.Module):
    """A linear map between axis groups: `[..., *inputs] -> [..., *outputs]`.

    `quantised`: the kernel may hold int8, and the product is scaled by `kernel_scale`, one number for each output.
    """

    inputs: Sequence[int]
    outputs: Sequence[int]
    axes: Sequence[str]
    bias: bool = False
    quantised: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        std = math.prod(self.inputs) ** -0.5
        init = nn.with_logical_partitioning(nn.initializers.normal(std), tuple(self.axes))
        kernel = self.param("kernel", init, (*self.inputs, *self.outputs), jnp.float32)
        y = dense(x, kernel, len(self.inputs))
        outputs = tuple(self.axes[len(self.inputs) :])
        if self.quantised:
            init = nn.with_logical_partitioning(nn.initializers.ones, outputs)
            y = y * self.param("kernel_scale", init, tuple(self.outputs), jnp.float32).astype(y.dtype)
        if not self.bias:
            return y
        init = nn.with_logical_partitioning(nn.initializers.zeros, outputs)
        return y + self.param("bias", init, tuple(self.outputs), jnp.float32).astype(y.dtype)


class RMSNorm(nn.Module):
    """`x / rms(x) * scale` over the last axis, in float32 inside and `x.dtype` outside (Zhang and Sennrich, 2019)."""

    epsilon: float
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.ones, (self.axis,))
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return normed.astype(x.dtype) * scale.astype(x.dtype)


class LayerNorm(nn.Module):
    """`(x - mean) / std * scale + bias` over the last axis, in float32 inside (Ba et al., 2016)."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, ("embed",)), (x.shape[-1],))
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)), (x.shape[-1],))
        # Fused with the sums before it, the mean of x is rounded differently from that of the same x as an input.
        wide = jax.lax.optimization_barrier(x.astype(jnp.float32))
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        # Rounded to x's dtype first, so that parameters cast once for all, as in sampling, give the same numbers.
        scale, bias = (leaf.astype(x.dtype).astype(jnp.float32) for leaf in (scale, bias))
        return (normed * scale + bias).astype(x.dtype)


def rotary_angles(positions: jax.Array, frequencies: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of rotary embeddings (Su et al., 2021), computed once for all layers.

    Args:
      positions: `[...]` integer positions of real tokens.
      frequencies: `[d / 2]` float32, radians a position.

    Returns:
      Two float32 arrays `[..., d / 2]`.
    """
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates `x` `[..., d]` by angles that broadcast to `[..., d / 2]`. Pairs are the two halves of d."""
    cos, sin = (a.astype(x.dtype) for a in angles)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


@jax.custom_vjp
def gate_and_up(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`[T, D]` and `[D, 2, F]` to gate and up, `[T, F]` each: one product forward, one for each backward.

    Joined backward, the gradient of the activation would be computed twice for every entry.
    """
    both = jnp.einsum("td,dgf->tgf", x, kernel)  # not flattened: F may be divided over devices
    return both[:, 0], both[:, 1]


def _gate_and_up_forward(x: jax.Array, kernel: jax.Array):
    return gate_and_up(x, kernel), (x, kernel)


def _gate_and_up_backward(residuals: tuple[jax.Array, jax.Array], gradients: tuple[jax.Array, jax.Array]):
    x, kernel = residuals
    halves = [matmul_gradients((x, kernel[:, i]), dy) for i, dy in enumerate(gradients)]
    return halves[0][0] + halves[1][0], jnp.stack([halves[0][1], halves[1][1]], axis=1)


gate_and_up.defvjp(_gate_and_up_forward, _gate_and_up_backward)


class GatedMLP(nn.Module):
    """`down(act(gate(x)) * up(x))` (Shazeer, 2020). Gate and up are one product."""

    width: int
    features: int
    activation: Activation
    bias: bool = False
    quantised: bool = False

    def setup(self) -> None:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.width**-0.5), ("embed", "gate_up", "mlp"))
        self.gate_up = self.param("gate_up", init, (self.width, 2, self.features), jnp.float32)
        if self.quantised:
            init = nn.with_logical_partitioning(nn.initializers.ones, ("gate_up", "mlp"))
            self.gate_up_scale = self.param("gate_up_scale", init, (2, self.features), jnp.float32)
        if self.bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros, ("gate_up", "mlp"))
            self.gate_up_bias = self.param("gate_up_bias", init, (2, self.features), jnp.float32)
        self.down = Dense((self.features,), (self.width,), ("mlp", "embed"), self.bias, self.quantised)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up = gate_and_up(x.reshape(-1, self.width), self.gate_up.astype(x.dtype))
        if self.quantised:
            gate, up = gate * self.gate_up_scale[0].astype(x.dtype), up * self.gate_up_scale[1].astype(x.dtype)
        if self.bias:
            gate, up = gate + self.gate_up_bias[0].astype(x.dtype), up + self.gate_up_bias[1].astype(x.dtype)
        return self.down(self.activation(gate) * up).reshape(x.shape)


class PlainMLP(nn.Module):
    """`down(act(up(x)))`."""

    width: int
    features: int
    activation: Activation
    bias: bool = False
    quantised: bool = False

    def setup(self) -> None:
        self.up = Dense((self.width,), (self.features,), ("embed", "mlp"), self.bias, self.quantised)
        self.down = Dense((self.features,), (self.width,), ("mlp", "embed"), self.bias, self.quantised)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.activation(self.up(x)))
