"""AdamW with a learning-rate schedule and gradient clipping, from optax."""

import dataclasses
from typing import Any, Literal

import jax
import optax

from rlhf_jax.config import CountOrZero, FractionBelowOne, NonNegative, Positive


@dataclasses.dataclass(frozen=True)
class Config:
    """AdamW (Loshchilov and Hutter, 2019). The defaults are those of the study's SFT and reward model.

    Attributes:
      learning_rate: the highest learning rate.
      schedule: after warm-up, "constant", or down to 0 at the last step: "linear" or "cosine".
      warmup_steps: steps of linear warm-up. The first step's rate is `learning_rate / (warmup_steps + 1)`, not 0.
      weight_decay: decoupled, on matrices only, not on norms and biases.
      beta1, beta2: decay of the first and second moment.
      epsilon: added to the root of the second moment.
      clip_norm: the gradient's largest global norm. 0 is no clipping.
    """

    learning_rate: NonNegative
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: CountOrZero = 0
    weight_decay: NonNegative = 0.0
    beta1: FractionBelowOne = 0.9
    beta2: FractionBelowOne = 0.999
    epsilon: Positive = 1e-8
    clip_norm: NonNegative = 1.0


def make_optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    """Clipping, then AdamW. `update(gradients, state, params)` returns updates to add, for any pytree of floats.

    Args:
      config: the settings.
      total_steps: optimiser updates in the whole run, where the schedule ends.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    adamw = optax.adamw(
        _schedule(config, total_steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=_decayed,
    )
    return optax.chain(clip, adamw)


def warn_of_warmup(config: Config, total_steps: int) -> None:
    """Prints a warning if a run ends before its learning rate has reached `learning_rate`."""
    if config.warmup_steps >= total_steps:
        highest = learning_rate_at(config, total_steps, total_steps - 1)
        print(
            f"warning: config.optimizer.warmup_steps is {config.warmup_steps} and the run has {total_steps} updates: "
            f"the learning rate ends at {highest:g} and never reaches {config.learning_rate:g}",
            flush=True,
        )


def learning_rate_at(config: Config, total_steps: int, step: int) -> float:
    """The learning rate of update number `step`, counted from 0."""
    return float(_schedule(config, total_steps)(step))


def updates_done(moments: optax.OptState) -> int:
    """Number of updates that an optimizer's state has seen."""
    counts = optax.tree_utils.tree_get_all_with_path(moments, "count")  # of Adam and of the schedule, the same
    return int(jax.device_get(counts[0][1]))


def _schedule(config: Config, total_steps: int) -> optax.Schedule:
    peak, warmup = config.learning_rate, config.warmup_steps
    decay_steps = max(total_steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps),
    }[config.schedule]
    before = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([before, after], [warmup]) if warmup else after


def _decayed(params: Any) -> Any:
    def is_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
        return leaf.ndim >= 2 and not jax.tree_util.keystr(path[-1:], simple=True).endswith(("bias", "scale"))

    return jax.tree.map_with_path(is_matrix, params)
