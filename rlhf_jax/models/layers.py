"""Layers: dense, norms, rotary positions, MLPs.

Every module declares the logical axes of its parameters once, by `nn.with_logical_partitioning`. Sharding,
initialisation and restore all read them from there.

Shape letters: T tokens (all leading axes flattened), D model width, F MLP width, d head width.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlhf_jax.models.matmul import dense, matmul_gradients

type Angles = tuple[Float[Array, "... half"], Float[Array, "... half"]]
"""Cosines and sines of rotary embeddings for each pair of features, `half` being d / 2."""

type Activation = Callable[[jax.Array], jax.Array]


def _param(
    module: nn.Module, name: str, init: nn.initializers.Initializer, axes: Sequence[str], shape: Sequence[int]
) -> jax.Array:
    """A float32 parameter of a module, with its logical axes."""
    return module.param(name, nn.with_logical_partitioning(init, tuple(axes)), tuple(shape), jnp.float32)


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
        init = nn.initializers.normal(math.prod(self.inputs) ** -0.5)
        kernel = _param(self, "kernel", init, self.axes, (*self.inputs, *self.outputs))
        y = dense(x, kernel, len(self.inputs))
        axes = self.axes[len(self.inputs) :]
        if self.quantised:
            y = y * _param(self, "kernel_scale", nn.initializers.ones, axes, self.outputs).astype(y.dtype)
        if self.bias:
            y = y + _param(self, "bias", nn.initializers.zeros, axes, self.outputs).astype(y.dtype)
        return y


class RMSNorm(nn.Module):
    """`x / rms(x) * scale` over the last axis, in float32 inside and `x.dtype` outside (Zhang and Sennrich, 2019)."""

    epsilon: float
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = _param(self, "scale", nn.initializers.ones, (self.axis,), x.shape[-1:])
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return normed.astype(x.dtype) * scale.astype(x.dtype)


class LayerNorm(nn.Module):
    """`(x - mean) / std * scale + bias` over the last axis, in float32 inside (Ba et al., 2016)."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = _param(self, "scale", nn.initializers.ones, ("embed",), x.shape[-1:])
        bias = _param(self, "bias", nn.initializers.zeros, ("embed",), x.shape[-1:])
        # Fused with the sums before it, the mean of x is rounded differently from that of the same x as an input.
        wide = jax.lax.optimization_barrier(x.astype(jnp.float32))
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        # Rounded to x's dtype first, so that parameters cast once for all, as in sampling, give the same numbers.
        scale, bias = (leaf.astype(x.dtype).astype(jnp.float32) for leaf in (scale, bias))
        return (normed * scale + bias).astype(x.dtype)


def rotary_angles(positions: Int[Array, "..."], frequencies: Float[np.ndarray, " half"]) -> Angles:
    """Angles of rotary embeddings (Su et al., 2021) in float32, computed once for all layers.

    `positions` are those of real tokens, and `frequencies` are in radians per position.
    """
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "... d"], angles: Angles) -> Float[Array, "... d"]:
    """Rotates `x` by angles that broadcast to `[..., d / 2]`. Pairs are the two halves of d."""
    cos, sin = (a.astype(x.dtype) for a in angles)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


@jax.custom_vjp
def gate_and_up(
    x: Float[Array, "T D"], kernel: Float[Array, "D 2 F"]
) -> tuple[Float[Array, "T F"], Float[Array, "T F"]]:
    """Gate and up: one product forward, one for each backward.

    Joined backward, the gradient of the activation would be computed twice for every entry.
    """
    both = jnp.einsum("td,dgf->tgf", x, kernel)  # not flattened: F may be divided over devices
    return both[:, 0], both[:, 1]


def _gate_and_up_gradients(
    residuals: tuple[jax.Array, jax.Array], gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    (x_by_gate, gate), (x_by_up, up) = (matmul_gradients((x, kernel[:, i]), dy) for i, dy in enumerate(gradients))
    return x_by_gate + x_by_up, jnp.stack([gate, up], axis=1)


gate_and_up.defvjp(lambda x, kernel: (gate_and_up(x, kernel), (x, kernel)), _gate_and_up_gradients)


class GatedMLP(nn.Module):
    """`down(act(gate(x)) * up(x))` (Shazeer, 2020). Gate and up are one product."""

    width: int
    features: int
    activation: Activation
    bias: bool = False
    quantised: bool = False

    def setup(self) -> None:
        init, axes, shape = nn.initializers.normal(self.width**-0.5), ("gate_up", "mlp"), (2, self.features)
        self.gate_up = _param(self, "gate_up", init, ("embed", *axes), (self.width, *shape))
        if self.quantised:
            self.gate_up_scale = _param(self, "gate_up_scale", nn.initializers.ones, axes, shape)
        if self.bias:
            self.gate_up_bias = _param(self, "gate_up_bias", nn.initializers.zeros, axes, shape)
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
