"""PPO's loss on a rollout, from the states that sampling kept at the trunk's edge.

Shape letters: B prompts, N responses of one prompt, R response length, E outer width.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from rlhf_jax.models import heads
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Edge, Model, Params, merge
from rlhf_jax.rl import masked
from rlhf_jax.rl.kl_penalty import kl_estimate, kl_loss
from rlhf_jax.rl.ppo_config import Algorithm


@flax.struct.dataclass
class Rollout:
    """Sampled responses and everything that the updates need of them, computed once.

    Attributes:
      sequences: prompts and responses.
      edge: states at the trunk's edge.
      scores: `[B, N]` float32, the reward model's, normalised.
      log_probs: `[B, N, R]` float32 of the sampling policy, computed by the update's own forward pass.
      reference_log_probs: `[B, N, R]` float32.
      values: `[B, N, R]` float32 of the value function at that time.
      rewards: `[B, N, R]` float32.
      advantages: `[B, N, R]`, whitened over all tokens of the rollout (not under `paper.whiten_microbatches`).
      returns: `[B, N, R]`.
    """

    sequences: Sequences
    edge: Edge
    scores: jax.Array
    log_probs: jax.Array
    reference_log_probs: jax.Array
    values: jax.Array
    rewards: jax.Array
    advantages: jax.Array
    returns: jax.Array

    def kl(self, estimator: str) -> jax.Array:
        """`[B, N]` nats of each response to the reference, as `rl.kl_penalty.kl_estimate` estimates it."""
        kl = kl_estimate(self.log_probs, self.reference_log_probs, estimator)
        return jnp.where(self.sequences.response_mask, kl, 0.0).sum(axis=-1)


def start_value(settings: Algorithm, policy: Params, reward: Params, mean: float, std: float, key: jax.Array) -> Params:
    """Initial value function: a linear head and, if it is separate, a top of its own.

    Args:
      settings: `value_model`, `value_start`, `score_scale`.
      policy: the policy's top.
      reward: the reward model's top.
      mean: of the reward model's raw scores.
      std: of the reward model's raw scores.
      key: of a random head.

    Returns:
      float32 copies: `kernel` `[E]`, `bias` if it comes from the reward model, `top` if it is separate.
    """
    kernel = reward["reward"]["kernel"]
    value: Params = {
        "zero": lambda: {"kernel": jnp.zeros_like(kernel)},
        "random": lambda: {"kernel": heads.random_head(key, kernel.shape[0])},
        "reward": lambda: heads.value_from_reward(reward, mean, std / settings.score_scale),
    }[settings.value_start]()
    if settings.value_model == "separate":
        source = reward if settings.value_start == "reward" else policy
        value["top"] = {name: jax.tree.map(jnp.copy, source[name]) for name in policy}
    return value


def policy_and_value(
    model: Model, trunk: Params, top: Params, sequences: Sequences, edge: Edge, temperature: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log-probs, entropies and values of the response tokens, each `[B, N, R]` float32, from the trunk's edge."""
    params = merge(trunk, top)
    hidden = model.top(params, sequences, edge)
    log_probs, entropy = heads.log_probs(model, params, sequences, hidden, temperature)
    if "top" in top["value"]:
        hidden = model.top(merge(trunk, top["value"]["top"]), sequences, edge)
    return log_probs, entropy, heads.values(params, hidden)


def clipped_policy_loss(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, mask: jax.Array, clip: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """PPO's clipped surrogate (Schulman et al., 2017, eq. 7), summed over tokens.

    Args:
      log_probs: `[..., R]` of the policy that is being updated.
      old_log_probs: `[..., R]` of the policy that sampled.
      advantages: `[..., R]`.
      mask: `[..., R]`.
      clip: epsilon.

    Returns:
      `(loss, metrics)`: sums over tokens, but `ratio_max` and `ratio_min`.
    """
    difference = jnp.where(mask, log_probs - old_log_probs, 0.0)
    ratio = jnp.exp(difference)
    unclipped = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    loss = jnp.sum(jnp.maximum(unclipped, clipped) * mask)
    metrics = {
        "clip_fraction": jnp.sum((jnp.abs(ratio - 1.0) > clip) & mask, dtype=jnp.float32),
        "approximate_kl": jnp.sum((ratio - 1.0 - difference) * mask),
        "ratio_max": jnp.max(jnp.where(mask, ratio, 1.0)),
        "ratio_min": jnp.min(jnp.where(mask, ratio, 1.0)),
    }
    return loss, metrics


def clipped_value_loss(
    values: jax.Array, old_values: jax.Array, returns: jax.Array, mask: jax.Array, clip: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Half the squared error of the value, clipped around the rollout's values as in PPO's reference code, summed.

    Args:
      values: `[..., R]` float32.
      old_values: `[..., R]`, of the rollout.
      returns: `[..., R]`.
      mask: `[..., R]`.
      clip: largest change of a value that still lowers the loss.

    Returns:
      `(loss, metrics)`: sums over tokens.
    """
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    error, clipped_error = (values - returns) ** 2, (near - returns) ** 2
    loss = 0.5 * jnp.sum(jnp.maximum(error, clipped_error) * mask)
    acted = (jnp.abs(values - old_values) > clip) & (clipped_error > error)  # without the first, rounding would count
    return loss, {"value_clip_fraction": jnp.sum(acted & mask, dtype=jnp.float32)}


def ppo_loss(
    model: Model, settings: Algorithm, trunk: Params, kl_coefficient: float | jax.Array, top: Params, rollout: Rollout
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum over response tokens of the PPO loss (Schulman et al., 2017, eq. 9), and the metrics' sums.

    It is policy loss + `vf_coef` * value loss - `entropy_coef` * entropy, plus beta * KL if `kl_in` is "loss".
    """
    sequences, mask = rollout.sequences, rollout.sequences.response_mask
    log_probs, entropy, values = policy_and_value(model, trunk, top, sequences, rollout.edge, settings.temperature)
    advantages = rollout.advantages
    if settings.paper.whiten_microbatches:
        advantages = masked.whiten(advantages, jnp.ones_like(mask))
    policy_loss, metrics = clipped_policy_loss(log_probs, rollout.log_probs, advantages, mask, settings.cliprange)
    value_loss, value_metrics = clipped_value_loss(
        values, rollout.values, rollout.returns, mask, settings.cliprange_value
    )
    total = policy_loss + settings.vf_coef * value_loss
    if settings.kl_in == "loss":
        penalty = kl_loss(log_probs, rollout.reference_log_probs, mask, settings.kl_estimator)
        total = total + kl_coefficient * penalty
    if settings.entropy_coef:
        total = total - settings.entropy_coef * jnp.sum(jnp.where(mask, entropy, 0.0))
    metrics |= {"policy_loss": policy_loss, "value_loss": value_loss, "tokens": mask.sum(), **value_metrics}
    return total, metrics
