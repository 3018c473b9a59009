"""Advantages of tokens: generalised advantage estimation and whitening."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.rl import masked
from rlhf_jax.rl.ppo_config import Algorithm


def gae(
    rewards: Float[Array, "*B R"],
    values: Float[Array, "*B R"],
    mask: Bool[Array, "*B R"],
    gamma: float,
    gae_lambda: float,
) -> tuple[Float[Array, "*B R"], Float[Array, "*B R"]]:
    """Generalised advantage estimation (Schulman et al., 2016, eq. 16) by a reverse scan.

    `values` are those before each token. A response ends at its last real token. The value after it is 0, also if the
    length limit cut the response. With a lambda of 1 the returns are plain sums of discounted future rewards.

    Returns:
      `(advantages, returns)`, 0 outside the mask. Returns are advantages plus values.
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


def explained_variance(
    values: Float[Array, "*B R"], returns: Float[Array, "*B R"], mask: Bool[Array, "*B R"]
) -> Float[Array, ""]:
    """`1 - Var(returns - values) / Var(returns)` over the mask. A perfect value function has 1."""
    return 1.0 - masked.variance(returns - values, mask) / jnp.maximum(masked.variance(returns, mask), 1e-8)


def whiten_advantages(
    settings: Algorithm, advantages: Float[Array, "B N R"], mask: Bool[Array, "B N R"]
) -> Float[Array, "B N R"]:
    """Whitens advantages over the tokens of the rollout, unless the loss whitens them per microbatch."""
    return advantages if settings.paper.whiten_microbatches else masked.whiten(advantages, mask)
