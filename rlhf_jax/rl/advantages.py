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

    A response ends at its last real token: the value after it is 0, also when it was cut by the length limit.

    Args:
      rewards: `[..., R]`.
      values: `[..., R]`, the value before each token.
      mask: `[..., R]`.
      gamma: gamma.
      gae_lambda: lambda; at 1 the returns are the plain sums of discounted rewards to come, whatever the values.

    Returns:
      `(advantages, returns)`, each `[..., R]`, 0 outside the mask; returns are advantages plus values.
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
    """`1 - Var(returns - values) / Var(returns)` over the mask; 1 is a perfect value function."""
    return 1.0 - masked.variance(returns - values, mask) / jnp.maximum(masked.variance(returns, mask), 1e-8)


def whiten_advantages(settings: Algorithm, advantages: jax.Array, mask: jax.Array) -> jax.Array:
    """Advantages `[B, N, R]` whitened over the tokens of the rollout; as they are if the loss is to whiten them."""
    return advantages if settings.paper.whiten_microbatches else masked.whiten(advantages, mask)
