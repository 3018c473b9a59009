"""Losses of supervised stages, each a sum over its units (tokens, pairs).

The caller divides by the count over the global batch, which makes accumulation over microbatches and devices exact.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Metrics = dict[str, jax.Array]


def cross_entropy(log_probs: jax.Array, mask: jax.Array) -> jax.Array:
    """Sum of `-log p` over response tokens.

    Args:
      log_probs: `[..., R]` float32.
      mask: `[..., R]`.

    Returns:
      A scalar, nats.
    """
    return -jnp.sum(jnp.where(mask, log_probs, 0.0))


def pairwise_loss(scores: jax.Array, weight: jax.Array) -> tuple[jax.Array, Metrics]:
    """Bradley-Terry loss (Christiano et al., 2017): sum of `-log sigmoid(chosen - rejected)`.

    Args:
      scores: `[B, 2]` float32, chosen first.
      weight: `[B]`, 1 for a pair that counts, 0 for filler.

    Returns:
      `(loss, metrics)`: sums over pairs. `accuracy` counts a tie as a half.
    """
    margin = scores[:, 0] - scores[:, 1]
    loss = jnp.sum(jax.nn.softplus(-margin) * weight)
    correct = jnp.where(margin > 0, 1.0, jnp.where(margin == 0, 0.5, 0.0))
    return loss, {"accuracy": jnp.sum(correct * weight), "margin": jnp.sum(margin * weight)}


def centering_loss(scores: jax.Array, weight: jax.Array) -> jax.Array:
    """Sum of the squared sums of pairs' scores (Eisenstein et al., 2023): a regulariser that fixes the scores' level.

    Args:
      scores: `[B, 2]` float32.
      weight: `[B]`, 1 for a pair that counts, 0 for filler.

    Returns:
      A scalar, to be multiplied by its coefficient and added to `pairwise_loss`.
    """
    return jnp.sum(scores.sum(axis=1) ** 2 * weight)
