"""Advantages of tokens: generalised advantage estimation and whitening."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.rl import masked
from rlhf_jax.rl.ppo_config import Algorithm


def gae(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, gamma: float, gae_lambda: float
) -> tuple[jax.Array, jax.Array]:
    """Generalised advantage estimation (Schulman et al., 2016, eq. 16) by a reverse scan.

    A response ends at its last real token. The value after it is 0, also if the length limit cut the response.

    Args:
      rewards: `[..., R]`.
      values: `[..., R]`, the value before each token.
      mask: `[..., R]`.
      gamma: the discount.
      gae_lambda: lambda. At 1 the returns are plain sums of discounted future rewards.

    Returns:
      `(advantages, returns)`, each `[..., R]`, 0 outside the mask. Returns are advantages plus values.
    """
    values = jnp.where(mask, values, 0.0)
    following = jnp.concatenate([values[..., 1:], jnp.zeros_like(values[..., :1])], axis=-1)
    deltas = jnp.where(mask, rewards + gamma * following - values, 0.0)

    def step(carry: jax.Array, delta: jax.Array) -> tuple[jax.Array, jax.Array]:
        carry = delta + gamma * gae_lambda * carry
        return carry, carry

    _, reverse = jax.lax.scan(step, jnp.zeros_like(deltas[..., 0]), jnp.moveaxis(deltas, -1, 0), reverse=True)
    advantages = jnp.where(mask, jnp.moveaxis(reverse, 0, -1), 0.0)
    return advantages, advantages + values


def explained_variance(values: jax.Array, returns: jax.Array, mask: jax.Array) -> jax.Array:
    """`1 - Var(returns - values) / Var(returns)` over the mask. A perfect value function has 1."""
    return 1.0 - masked.variance(returns - values, mask) / jnp.maximum(masked.variance(returns, mask), 1e-8)


def whiten_advantages(settings: Algorithm, advantages: jax.Array, mask: jax.Array) -> jax.Array:
    """Whitens advantages `[B, N, R]` over the tokens of the rollout, unless the loss whitens them per microbatch."""
    return advantages if settings.paper.whiten_microbatches else masked.whiten(advantages, mask)
