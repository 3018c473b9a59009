"""PPO's loss on a rollout, from the states that sampling kept at the trunk's edge.

Shape letters: B prompts, N responses of one prompt, R response length, E outer width.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from rlhf_jax import losses, ops
from rlhf_jax.models import roles
from rlhf_jax.models.transformer import Edge, Model, Params, merge
from rlhf_jax.rl.settings import Algorithm
from rlhf_jax.sequences import Sequences


@flax.struct.dataclass
class Rollout:
    """Sampled responses and all that the updates need of them; computed once.

    Attributes:
      sequences: prompts and responses.
      edge: states at the trunk's edge.
      scores: `[B, N]` float32, the reward model's, normalised.
      log_probs: `[B, N, R]` float32 of the policy that sampled, computed by the update's own forward pass.
      reference_log_probs: `[B, N, R]` float32.
      values: `[B, N, R]` float32 of the value function at that time.
      rewards: `[B, N, R]` float32.
      advantages: `[B, N, R]`, whitened over all tokens of the rollout (not yet under `paper.whiten_microbatches`).
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
        """`[B, N]` nats of each response to the reference, as `ops.kl_estimate` estimates it."""
        kl = ops.kl_estimate(self.log_probs, self.reference_log_probs, estimator)
        return jnp.where(self.sequences.response_mask, kl, 0.0).sum(axis=-1)


def start_value(
    settings: Algorithm, policy: Params, reward: Params, mean: float, deviation: float, key: jax.Array
) -> Params:
    """The value function before the first step: a linear head and, if it is separate, a top of its own.

    Args:
      settings: `value_model`, `value_start`, `score_scale`.
      policy: the policy's top.
      reward: the reward model's top.
      mean: of the reward model's raw scores.
      deviation: the same.
      key: of a random head.

    Returns:
      `kernel` `[E]`, `bias` where it comes from the reward model, `top` where it is separate; copies, float32.
    """
    kernel = reward["reward"]["kernel"]
    value: Params = {
        "zero": lambda: {"kernel": jnp.zeros_like(kernel)},
        "random": lambda: {"kernel": roles.random_head(key, kernel.shape[0])},
        "reward": lambda: roles.value_from_reward(reward, mean, deviation / settings.score_scale),
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
    log_probs, entropy = roles.log_probs(model, params, sequences, hidden, temperature)
    if "top" in top["value"]:
        hidden = model.top(merge(trunk, top["value"]["top"]), sequences, edge)
    return log_probs, entropy, roles.values(params, hidden)


def whiten(settings: Algorithm, advantages: jax.Array, mask: jax.Array) -> jax.Array:
    """Advantages `[B, N, R]` whitened over the tokens of the rollout; as they are if the loss is to whiten them."""
    return advantages if settings.paper.whiten_microbatches else ops.masked_whiten(advantages, mask)


def ppo_loss(
    model: Model, settings: Algorithm, trunk: Params, kl_coefficient: float | jax.Array, top: Params, rollout: Rollout
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum over response tokens of policy loss + coefficient * value loss - coefficient * entropy (Schulman et al.,
    2017, eq. 9), and of the KL penalty where the settings put it here; and the metrics' sums.
    """
    sequences, mask = rollout.sequences, rollout.sequences.response_mask
    log_probs, entropy, values = policy_and_value(model, trunk, top, sequences, rollout.edge, settings.temperature)
    advantages = rollout.advantages
    if settings.paper.whiten_microbatches:
        advantages = ops.masked_whiten(advantages, jnp.ones_like(mask))
    policy_loss, metrics = losses.clipped_policy(log_probs, rollout.log_probs, advantages, mask, settings.policy_clip)
    value_loss, value_metrics = losses.clipped_value(values, rollout.values, rollout.returns, mask, settings.value_clip)
    total = policy_loss + settings.value_coefficient * value_loss
    if settings.kl_in == "loss":
        penalty = losses.kl_penalty(log_probs, rollout.reference_log_probs, mask, settings.kl_estimator)
        total = total + kl_coefficient * penalty
    if settings.entropy_coefficient:
        total = total - settings.entropy_coefficient * jnp.sum(jnp.where(mask, entropy, 0.0))
    metrics |= {"policy_loss": policy_loss, "value_loss": value_loss, "tokens": mask.sum(), **value_metrics}
    return total, metrics
