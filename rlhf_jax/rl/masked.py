"""Moments of arrays over the true cells of a mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `x` over the true cells of `mask`, a scalar. Without any it is 0."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def variance(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Variance of `x` over the true cells of `mask`, divided by their count, a scalar. Without any it is 0."""
    return mean((x - mean(x, mask)) ** 2, mask)


def whiten(x: jax.Array, mask: jax.Array, epsilon: float = 1e-8) -> jax.Array:
    """`x` with mean 0 and variance 1 over the true cells of `mask`, and 0 elsewhere."""
    return (x - mean(x, mask)) * jax.lax.rsqrt(variance(x, mask) + epsilon) * mask


def scale(x: jax.Array, mask: jax.Array, epsilon: float = 1e-8) -> jax.Array:
    """`x` with variance 1 over the true cells of `mask`, its mean scaled too and not removed, and 0 elsewhere."""
    return x * jax.lax.rsqrt(variance(x, mask) + epsilon) * mask
