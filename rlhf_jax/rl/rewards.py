"""Token rewards from scores and the KL penalty.

Shape letters: B prompts, N responses of one prompt, R response length.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.models.sequences import last_index
from rlhf_jax.rl import masked
from rlhf_jax.rl.ppo_config import Algorithm


def shaped_scores(settings: Algorithm, scores: jax.Array, finished: jax.Array, lengths: jax.Array) -> jax.Array:
    """Reward of a whole response: the score is scaled and clipped, then the penalties are subtracted.

    Args:
      settings: `score_scale`, `score_clip`, `length_penalty`, `missing_eos_penalty`.
      scores: `[B, N]` float32, normalised.
      finished: `[B, N]` bool, false if the length limit cut the response.
      lengths: `[B, N]` int, tokens, EOS included.

    Returns:
      `[B, N]` float32.
    """
    scores = settings.score_scale * scores
    if settings.score_clip:
        scores = jnp.clip(scores, -settings.score_clip, settings.score_clip)
    if settings.length_penalty:
        scores = scores - settings.length_penalty * lengths
    return scores - settings.missing_eos_penalty * ~finished


def token_rewards(settings: Algorithm, scores: jax.Array, penalty: jax.Array, mask: jax.Array) -> jax.Array:
    """Reward of each token: `-penalty`, plus the score on the last token (Ziegler et al., 2019, eq. 2).

    Args:
      settings: `kl_in`, `whiten_rewards`.
      scores: `[B, N]`, shaped.
      penalty: `[B, N, R]`, beta times the KL estimate, 0 outside the mask. It is ignored if the penalty is in the loss.
      mask: `[B, N, R]`.

    Returns:
      `[B, N, R]` float32, 0 outside the mask.
    """
    rewards = place_score(scores, mask)
    if settings.kl_in == "reward":
        rewards = rewards - penalty
    return masked.scale(rewards, mask) if settings.whiten_rewards else rewards


def place_score(score: jax.Array, mask: jax.Array) -> jax.Array:
    """Puts each response's score on its last real token (its EOS, or the last one before the cut), in floating point.

    Args:
      score: `[...]` float.
      mask: `[..., R]`.

    Returns:
      `[..., R]`, zero except for one token per row. An empty row is all zero.
    """
    at_end = jnp.arange(mask.shape[-1]) == last_index(mask)[..., None]
    return jnp.where(at_end & mask, score[..., None], 0.0)
