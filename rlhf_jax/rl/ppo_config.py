"""What can be chosen about PPO, the study's numeric quirks among it, and which choices are refused."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from rlhf_jax.config import Count, CountOrZero, Fraction, NonNegative, Positive
from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Paper:
    """Quirks of the study's released code that change numbers; off, each is what it should be (`docs/method.md`).

    Attributes:
      whiten_microbatches: (R3, R4) advantages are whitened over all cells of each microbatch, those after a response's
        end included, instead of over the tokens of the whole rollout.
      divide_by_cells: (R5) losses are divided by the number of cells, so that padding shrinks them, instead of tokens.
      recompute_advantages: (R21) advantages and returns are computed anew at each update from the value function as it
        is then, instead of once a rollout.
    """

    whiten_microbatches: bool
    divide_by_cells: bool
    recompute_advantages: bool


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """PPO's own settings. A 0 turns off what says so.

    Attributes:
      temperature: of rollouts; log-probs are those of the tempered policy.
      max_new_tokens: R, EOS included.
      kl_coef: beta, nats to score (the study: 0.05); where it starts if it adapts.
      kl_estimator: of the penalty: "k1", "k2" (the released code's, R10) or "k3".
      kl_in: "reward" takes the penalty from each token's reward, "loss" adds it to the loss and differentiates it.
      kl_target: nats a response that an adaptive coefficient steers to (Ziegler et al., 2019); 0 keeps it fixed.
      kl_horizon: responses over which an adaptive coefficient follows an error in full.
      refresh_reference_every: steps after which the policy becomes the reference; 0 never.
      score_scale: factor of the normalised score.
      score_clip: largest size of the scaled score; 0 is no limit.
      length_penalty: taken from the score for each token of the response.
      missing_eos_penalty: taken from the score of a response that was cut by the length limit.
      whiten_rewards: token rewards are divided by their deviation over the rollout; their mean is not removed, which
        would pay for length.
      gamma: gamma.
      gae_lambda: lambda of GAE; at 1 the returns are plain sums of rewards, so there is no other setting for those.
      value_model: "policy" puts the value head on the policy's top; "separate" gives it a top of its own.
      value_start: of the value head: "zero", "random" (R18), or "reward", the reward model's head (with a separate top,
        all of the reward model, so that values start as its normalised scores of what has been said so far).
      value_warmup_steps: first steps in which the value function alone is trained. The optimiser counts their updates
        for all parameters.
      num_ppo_epochs: passes over a rollout.
      num_mini_batches: optimiser updates a pass.
      cliprange: epsilon of the ratio.
      cliprange_value: the same of the value.
      vf_coef: weight of the value loss.
      entropy_coef: weight of the entropy, which is added to the objective; 0 is off.
      target_kl: nats a token: an update whose minibatch is further than this from the policy that sampled is not made,
        nor any after it in this rollout; 0 is off.
      paper: quirks of the study's code.
    """

    RENAMED: ClassVar[dict[str, str | None]] = {
        "discount": "gamma",
        "decay": "gae_lambda",
        "policy_clip": "cliprange",
        "value_clip": "cliprange_value",
        "value_coefficient": "vf_coef",
        "entropy_coefficient": "entropy_coef",
        "kl_coefficient": "kl_coef",
        "epochs": "num_ppo_epochs",
        "minibatches": "num_mini_batches",
        "top_k": None,  # a rollout is drawn from the whole distribution, or its log-probs would not describe it
        "top_p": None,
    }

    temperature: Positive
    max_new_tokens: Count
    kl_coef: NonNegative
    kl_estimator: Literal["k1", "k2", "k3"]
    kl_in: Literal["reward", "loss"]
    kl_target: NonNegative
    kl_horizon: Count
    refresh_reference_every: CountOrZero
    score_scale: Positive
    score_clip: NonNegative
    length_penalty: float
    missing_eos_penalty: float
    whiten_rewards: bool
    gamma: Fraction
    gae_lambda: Fraction
    value_model: Literal["policy", "separate"]
    value_start: Literal["zero", "random", "reward"]
    value_warmup_steps: CountOrZero
    num_ppo_epochs: Count
    num_mini_batches: Count
    cliprange: Positive
    cliprange_value: Positive
    vf_coef: NonNegative
    entropy_coef: NonNegative
    target_kl: NonNegative
    paper: Paper


def check(settings: Algorithm, responses: int) -> None:
    """Refuses combinations of settings that cannot do what they are for.

    Args:
      settings: PPO's own settings.
      responses: of one rollout.

    Raises:
      UserError: names the key, what it is and what was expected.
    """
    if settings.kl_in == "loss" and settings.kl_estimator == "k1":
        raise UserError(
            'config.algorithm.kl_estimator is "k1" and kl_in is "loss", expected "k2" or "k3" there: the gradient of '
            "k1 is zero in expectation and would penalise nothing"
        )
    if settings.kl_target and settings.kl_horizon < responses:
        raise UserError(
            f"config.algorithm.kl_horizon is {settings.kl_horizon}, expected at least the responses of a rollout, "
            f"{responses}"
        )
    if settings.kl_target and not settings.kl_coef:
        raise UserError(
            f"config.algorithm.kl_coef is {settings.kl_coef} and kl_target {settings.kl_target}, "
            "expected a coefficient above 0 to start from"
        )
