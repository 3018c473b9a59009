"""The KL penalty: estimators of KL(policy || reference), the penalty in the loss, the adaptive coefficient."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.rl.ppo_config import Algorithm


def kl_estimate(log_prob: jax.Array, reference: jax.Array, estimator: str) -> jax.Array:
    """Per-token estimate of KL(policy || reference) from samples of the policy (Schulman, 2020).

    With `r = reference - log_prob`: k1 is `-r` (unbiased, may be negative), k2 is `r^2 / 2` (biased, low variance), k3
    is `exp(r) - 1 - r` (unbiased, never negative).

    Args:
      log_prob: `[...]` of the sampled tokens under the policy.
      reference: `[...]` of the same tokens under the reference.
      estimator: "k1", "k2" or "k3".

    Returns:
      `[...]`, nats.
    """
    r = reference - log_prob
    return {"k1": lambda: -r, "k2": lambda: 0.5 * r * r, "k3": lambda: jnp.expm1(r) - r}[estimator]()


def kl_loss(log_probs: jax.Array, reference: jax.Array, mask: jax.Array, estimator: str) -> jax.Array:
    """Differentiable estimate of KL(policy || reference), summed over tokens, for a penalty in the loss.

    In expectation over samples of the policy, k2 has the gradient of this divergence, and k3 that of the reverse one,
    KL(reference || policy). k1 has gradient zero. docs/method.md derives all three.

    Args:
      log_probs: `[..., R]` of the updated policy.
      reference: `[..., R]` of the reference.
      mask: `[..., R]`.
      estimator: as in `kl_estimate`.

    Returns:
      A scalar, nats.
    """
    return jnp.sum(kl_estimate(jnp.where(mask, log_probs, 0.0), jnp.where(mask, reference, 0.0), estimator))


LARGEST_ERROR = 0.2  # of the controller, as a share of the target


def current_kl_coef(settings: Algorithm, adapted: jax.Array | None) -> float | jax.Array:
    """The KL coefficient: the one in the run's state, or the setting where it is fixed and the state has none."""
    return settings.kl_coef if adapted is None else adapted


def next_kl_coef(settings: Algorithm, coefficient: jax.Array, kl: jax.Array, responses: int) -> jax.Array:
    """The KL coefficient after a rollout (Ziegler et al., 2019, section 2.2): a proportional controller in log space.

    `e = clip(KL / target - 1, -0.2, 0.2)` and `beta <- beta * (1 + e * responses / horizon)`.

    Args:
      settings: `kl_target` (more than 0), `kl_horizon`.
      coefficient: scalar float32, beta.
      kl: scalar, the rollout's mean k1 a response, nats.
      responses: of the rollout.
    """
    error = jnp.clip(kl / settings.kl_target - 1.0, -LARGEST_ERROR, LARGEST_ERROR)
    return coefficient * (1.0 + error * responses / settings.kl_horizon)
