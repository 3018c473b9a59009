"""Token rewards from scores and the KL penalty.

Shape letters: B prompts, N responses of one prompt, R response length.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.sequences import last_index
from rlhf_jax.rl import masked
from rlhf_jax.rl.ppo_config import Algorithm


def shaped_scores(
    settings: Algorithm, scores: Float[Array, "*B"], finished: Bool[Array, "*B"], lengths: Int[Array, "*B"]
) -> Float[Array, "*B"]:
    """Reward of a whole response: the normalised score is scaled and clipped, then the penalties are subtracted.

    `finished` is false if the length limit cut the response. `lengths` are tokens, EOS included.
    """
    scores = settings.score_scale * scores
    if settings.score_clip:
        scores = jnp.clip(scores, -settings.score_clip, settings.score_clip)
    if settings.length_penalty:
        scores = scores - settings.length_penalty * lengths
    return scores - settings.missing_eos_penalty * ~finished


def token_rewards(
    settings: Algorithm, scores: Float[Array, "*B"], penalty: Float[Array, "*B R"], mask: Bool[Array, "*B R"]
) -> Float[Array, "*B R"]:
    """Reward of each token: `-penalty`, plus the shaped score on the last token (Ziegler et al., 2019, eq. 2).

    `penalty` is beta times the KL estimate, 0 outside the mask. It is ignored if the penalty is in the loss.
    """
    rewards = place_score(scores, mask)
    if settings.kl_in == "reward":
        rewards = rewards - penalty
    return masked.scale(rewards, mask) if settings.whiten_rewards else rewards


def place_score(score: Float[Array, "*B"], mask: Bool[Array, "*B R"]) -> Float[Array, "*B R"]:
    """Puts each response's score on its last real token (its EOS, or the last one before the cut).

    All other tokens have 0. So has an empty row.
    """
    at_end = jnp.arange(mask.shape[-1]) == last_index(mask)[..., None]
    return jnp.where(at_end & mask, score[..., None], 0.0)
