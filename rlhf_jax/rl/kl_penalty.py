"""The KL penalty: estimators of KL(policy || reference), the penalty in reward or loss, the adaptive coefficient."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.rl.ppo_config import Algorithm

LARGEST_ERROR = 0.2  # of the controller, as a fraction of the target


def kl_estimate(
    log_prob: Float[Array, "*dims"], reference: Float[Array, "*dims"], estimator: str
) -> Float[Array, "*dims"]:
    """Per-token estimate of KL(policy || reference) from samples of the policy, in nats (Schulman, 2020).

    With `r = reference - log_prob`: k1 is `-r` (unbiased, may be negative), k2 is `r^2 / 2` (biased, low variance), k3
    is `exp(r) - 1 - r` (unbiased, never negative).
    """
    r = reference - log_prob
    return {"k1": lambda: -r, "k2": lambda: 0.5 * r * r, "k3": lambda: jnp.expm1(r) - r}[estimator]()


def kl_penalty(
    coefficient: float | Float[Array, ""],
    log_probs: Float[Array, "*dims"],
    reference: Float[Array, "*dims"],
    mask: Bool[Array, "*dims"],
    estimator: str,
) -> Float[Array, "*dims"]:
    """The penalty of each token in the reward: `coefficient` times the estimate in nats, 0 outside the mask."""
    return coefficient * jnp.where(mask, kl_estimate(log_probs, reference, estimator), 0.0)


def kl_loss(
    log_probs: Float[Array, "*dims"], reference: Float[Array, "*dims"], mask: Bool[Array, "*dims"], estimator: str
) -> Float[Array, ""]:
    """Differentiable estimate of KL(policy || reference), summed over tokens, in nats, for a penalty in the loss.

    In expectation over samples of the policy, k2 has the gradient of this divergence, and k3 that of the reverse one,
    KL(reference || policy). k1 has gradient zero. docs/method.md derives all three.
    """
    return jnp.sum(kl_estimate(jnp.where(mask, log_probs, 0.0), jnp.where(mask, reference, 0.0), estimator))


def current_kl_coef(settings: Algorithm, adapted: Float[Array, ""] | None) -> float | Float[Array, ""]:
    """The KL coefficient: the adapted one in the run's state, or the fixed setting."""
    return settings.kl_coef if adapted is None else adapted


def next_kl_coef(
    settings: Algorithm, coefficient: Float[Array, ""], kl: Float[Array, ""], responses: int
) -> Float[Array, ""]:
    """The KL coefficient after a rollout: a proportional controller in log space (Ziegler et al., 2019, section 2.2).

    `e = clip(KL / target - 1, -0.2, 0.2)` and `beta <- beta * (1 + e * responses / horizon)`. `kl` is the rollout's
    mean k1 per response, in nats, and `responses` their number.
    """
    error = jnp.clip(kl / settings.kl_target - 1.0, -LARGEST_ERROR, LARGEST_ERROR)
    return coefficient * (1.0 + error * responses / settings.kl_horizon)
