"""Moments of arrays over the true cells of a mask."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mean(x: Float[Array, "*dims"], mask: Bool[Array, "*dims"]) -> Float[Array, ""]:
    """Mean of `x` over the true cells of `mask`. Without any it is 0."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def variance(x: Float[Array, "*dims"], mask: Bool[Array, "*dims"]) -> Float[Array, ""]:
    """Variance of `x` over the true cells of `mask`, divided by their count. Without any it is 0."""
    return mean((x - mean(x, mask)) ** 2, mask)


def whiten(x: Float[Array, "*dims"], mask: Bool[Array, "*dims"], epsilon: float = 1e-8) -> Float[Array, "*dims"]:
    """`x` with mean 0 and variance 1 over the true cells of `mask`, and 0 elsewhere."""
    return (x - mean(x, mask)) * jax.lax.rsqrt(variance(x, mask) + epsilon) * mask


def scale(x: Float[Array, "*dims"], mask: Bool[Array, "*dims"], epsilon: float = 1e-8) -> Float[Array, "*dims"]:
    """`x` with variance 1 over the true cells of `mask`, its mean scaled too and not removed, and 0 elsewhere."""
    return x * jax.lax.rsqrt(variance(x, mask) + epsilon) * mask
