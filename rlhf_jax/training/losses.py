"""Losses of supervised stages, each a sum over its units (tokens, pairs).

The caller divides by the count over the global batch, which makes accumulation over microbatches and devices exact.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Metrics = dict[str, jax.Array]


def cross_entropy(log_probs: Float[Array, "*B R"], mask: Bool[Array | np.ndarray, "*B R"]) -> Float[Array, ""]:
    """Sum of `-log p` over response tokens, in nats."""
    return -jnp.sum(jnp.where(mask, log_probs, 0.0))


def pairwise_loss(
    scores: Float[Array, "B 2"], weight: Float[Array | np.ndarray, " B"]
) -> tuple[Float[Array, ""], Metrics]:
    """Bradley-Terry loss (Christiano et al., 2017): sum of `-log sigmoid(chosen - rejected)`, the chosen score first.

    A pair has weight 1, and a filler row 0. The metrics are sums over pairs. `accuracy` counts a tie as a half.
    """
    margin = scores[:, 0] - scores[:, 1]
    loss = jnp.sum(jax.nn.softplus(-margin) * weight)
    correct = jnp.where(margin > 0, 1.0, jnp.where(margin == 0, 0.5, 0.0))
    return loss, {"accuracy": jnp.sum(correct * weight), "margin": jnp.sum(margin * weight)}


def centering_loss(scores: Float[Array, "B 2"], weight: Float[Array | np.ndarray, " B"]) -> Float[Array, ""]:
    """Sum of the squared sums of pairs' scores (Eisenstein et al., 2023): a regulariser that fixes the scores' level.

    Multiply it by its coefficient and add it to `pairwise_loss`.
    """
    return jnp.sum(scores.sum(axis=1) ** 2 * weight)
