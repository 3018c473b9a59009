"""PPO's settings, the study's numeric quirks, and combinations that are refused."""

import dataclasses
from typing import ClassVar, Literal

from rlhf_jax.config import Count, CountOrZero, Fraction, NonNegative, Positive
from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Paper:
    """Quirks of the study's released code that change numbers (`docs/method.md`). Off, each computation is correct.

    Attributes:
      whiten_microbatches: (R3, R4) whitens advantages over all cells of each microbatch, those after EOS included,
        instead of over the tokens of the whole rollout.
      divide_by_cells: (R5) divides losses by the number of cells instead of tokens, so that padding shrinks them.
      recompute_advantages: (R21) computes advantages and returns at each update from the current value function,
        instead of once per rollout.
    """

    whiten_microbatches: bool
    divide_by_cells: bool
    recompute_advantages: bool


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """PPO's own settings.

    Attributes:
      temperature: of rollouts. Log-probs are those of the tempered policy.
      max_new_tokens: R, EOS included.
      kl_coef: beta, score per nat (the study: 0.05). With `kl_target` it is the initial value.
      kl_estimator: of the penalty: "k1", "k2" (the released code's, R10) or "k3".
      kl_in: "reward" subtracts the penalty from each token's reward, "loss" adds it to the loss and differentiates it.
      kl_target: nats per response that an adaptive beta steers to (Ziegler et al., 2019). 0 keeps beta fixed.
      kl_horizon: responses over which an adaptive beta corrects an error in full.
      refresh_reference_every: steps after which the policy becomes the reference. 0 never refreshes.
      score_scale: factor of the normalised score.
      score_clip: maximum size of the scaled score. 0 is no limit.
      length_penalty: subtracted from the score for each token of the response.
      missing_eos_penalty: subtracted from the score of a response that the length limit cut.
      whiten_rewards: divides token rewards by their standard deviation over the rollout. Their mean stays, since
        removing it would reward length.
      gamma: the discount.
      gae_lambda: lambda of GAE. At 1 the returns are plain sums of rewards.
      value_model: "policy" puts the value head on the policy's top, "separate" gives it a top of its own.
      value_start: of the value head: "zero", "random" (R18), or "reward", the reward model's head. With a separate top,
        "reward" copies the whole reward model, so that values start as its scores of the text so far.
      value_warmup_steps: initial steps that train the value function alone. The optimizer counts their updates for all
        parameters.
      num_ppo_epochs: passes over a rollout.
      num_mini_batches: optimizer updates per pass.
      cliprange: clip of the ratio.
      cliprange_value: clip of the value.
      vf_coef: weight of the value loss.
      entropy_coef: weight of the entropy bonus. 0 is off.
      target_kl: nats per token. Updating on a rollout stops once a minibatch's approximate KL exceeds this. 0 is off.
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
    length_penalty: NonNegative
    missing_eos_penalty: NonNegative
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
