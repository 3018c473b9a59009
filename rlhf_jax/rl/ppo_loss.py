"""PPO's loss on a rollout, from the states that sampling kept at the trunk's edge.

Shape letters: B prompts, N responses of one prompt, R response length, E outer width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.models import heads
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Edge, Model, Params, merge
from rlhf_jax.rl.kl_penalty import kl_loss
from rlhf_jax.rl.ppo_config import Algorithm
from rlhf_jax.rl.rollout import Rollout


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
) -> tuple[Float[Array, "B N R"], Float[Array, "B N R"], Float[Array, "B N R"]]:
    """Log-probs, entropies and values of the response tokens, from the trunk's edge."""
    params = merge(trunk, top)
    hidden = model.top(params, sequences, edge)
    log_probs, entropy = heads.log_probs(model, params, sequences, hidden, temperature)
    if "top" in top["value"]:
        hidden = model.top(merge(trunk, top["value"]["top"]), sequences, edge)
    return log_probs, entropy, heads.values(params, hidden)


def clipped_policy_loss(
    log_probs: Float[Array, "*B R"],
    old_log_probs: Float[Array, "*B R"],
    advantages: Float[Array, "*B R"],
    mask: Bool[Array, "*B R"],
    clip: float,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """PPO's clipped surrogate (Schulman et al., 2017, eq. 7), summed over tokens.

    `log_probs` are of the updated policy, `old_log_probs` of the sampling one. The metrics are sums over tokens, except
    `ratio_max` and `ratio_min`.
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
    values: Float[Array, "*B R"],
    old_values: Float[Array, "*B R"],
    returns: Float[Array, "*B R"],
    mask: Bool[Array, "*B R"],
    clip: float,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Half the squared error of the value, clipped around the rollout's values as in PPO's reference code, summed.

    `clip` is the largest change of a value that still lowers the loss. The metrics are sums over tokens.
    """
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    error, clipped_error = (values - returns) ** 2, (near - returns) ** 2
    loss = 0.5 * jnp.sum(jnp.maximum(error, clipped_error) * mask)
    acted = (jnp.abs(values - old_values) > clip) & (clipped_error > error)  # without the first, rounding would count
    return loss, {"value_clip_fraction": jnp.sum(acted & mask, dtype=jnp.float32)}


def ppo_loss(
    model: Model, settings: Algorithm, trunk: Params, kl_coefficient: float | Array, top: Params, rollout: Rollout
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Sum over response tokens of the PPO loss (Schulman et al., 2017, eq. 9), and the metrics' sums.

    It is policy loss + `vf_coef` * value loss - `entropy_coef` * entropy, plus beta * KL if `kl_in` is "loss".
    """
    sequences, mask = rollout.sequences, rollout.sequences.response_mask
    log_probs, entropy, values = policy_and_value(model, trunk, top, sequences, rollout.edge, settings.temperature)
    advantages = rollout.advantages
    if settings.paper.whiten_microbatches:
        advantages = (advantages - advantages.mean()) / (1e-8 + advantages.std(ddof=1))  # as the study's code does
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
