"""A rollout: the data that PPO's updates read.

Shape letters: B prompts, N responses of one prompt, R response length.
"""

import flax.struct
import jax
import jax.numpy as jnp

from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Edge
from rlhf_jax.rl.kl_penalty import kl_estimate


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
