"""What can be chosen about PPO, the study's numeric quirks among it, and which choices are refused."""

from __future__ import annotations

import dataclasses
from typing import Literal

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
      top_k, top_p: must be 0 and 1: what is sampled must be what is scored.
      max_new_tokens: R, EOS included.
      kl_coefficient: beta, nats to score (the study: 0.05); where it starts if it adapts.
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
      discount: gamma.
      decay: lambda of GAE; at 1 the returns are plain sums of rewards, so there is no other setting for those.
      value_model: "policy" puts the value head on the policy's top; "separate" gives it a top of its own.
      value_start: of the value head: "zero", "random" (R18), or "reward", the reward model's head (with a separate top,
        all of the reward model, so that values start as its normalised scores of what has been said so far).
      value_warmup_steps: first steps in which the value function alone is trained. The optimiser counts their updates
        for all parameters.
      epochs: passes over a rollout.
      minibatches: optimiser updates a pass.
      policy_clip: epsilon of the ratio.
      value_clip: the same of the value.
      value_coefficient: weight of the value loss.
      entropy_coefficient: weight of the entropy, which is added to the objective; 0 is off.
      target_kl: nats a token: an update whose minibatch is further than this from the policy that sampled is not made,
        nor any after it in this rollout; 0 is off.
      paper: quirks of the study's code.
    """

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int
    kl_coefficient: float
    kl_estimator: Literal["k1", "k2", "k3"]
    kl_in: Literal["reward", "loss"]
    kl_target: float
    kl_horizon: int
    refresh_reference_every: int
    score_scale: float
    score_clip: float
    length_penalty: float
    missing_eos_penalty: float
    whiten_rewards: bool
    discount: float
    decay: float
    value_model: Literal["policy", "separate"]
    value_start: Literal["zero", "random", "reward"]
    value_warmup_steps: int
    epochs: int
    minibatches: int
    policy_clip: float
    value_clip: float
    value_coefficient: float
    entropy_coefficient: float
    target_kl: float
    paper: Paper


_NOT_NEGATIVE = (
    "kl_coefficient",
    "kl_target",
    "refresh_reference_every",
    "score_clip",
    "value_warmup_steps",
    "value_coefficient",
    "entropy_coefficient",
    "target_kl",
)
_MORE_THAN_ZERO = (
    "temperature",
    "max_new_tokens",
    "score_scale",
    "epochs",
    "minibatches",
    "policy_clip",
    "value_clip",
)
_SHARES = ("discount", "decay")


def check(settings: Algorithm, responses: int) -> None:
    """Refuses settings that are out of range or cannot do what they are for.

    Args:
      settings: PPO's own settings.
      responses: of one rollout.

    Raises:
      UserError: names the key, what it is and what was expected.
    """
    for names, fits, expected in (
        (_MORE_THAN_ZERO, lambda value: value > 0, "more than 0"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
        (_SHARES, lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    ):
        for name in names:
            if not fits(getattr(settings, name)):
                raise UserError(f"config.algorithm.{name} is {getattr(settings, name)}, expected {expected}")
    for name, off in (("top_k", 0), ("top_p", 1.0)):
        if getattr(settings, name) != off:
            raise UserError(
                f"config.algorithm.{name} is {getattr(settings, name)}, expected {off}: a rollout drawn from a cut-off "
                "distribution is not from the policy that its log-probs describe, so ratios and KL would be wrong from "
                "the first update on"
            )
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
    if settings.kl_target and not settings.kl_coefficient:
        raise UserError(
            f"config.algorithm.kl_coefficient is {settings.kl_coefficient} and kl_target {settings.kl_target}, "
            "expected a coefficient above 0 to start from"
        )
