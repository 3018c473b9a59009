"""One step on a file's records: what fine-tuning and reward modelling share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax

from rlhf_jax.parallel.jit import jit_step
from rlhf_jax.training.state import State, summed_gradients

Metrics = dict[str, jax.Array]


def make_train_step(
    loss: Callable[[Any, Any, Any], tuple[jax.Array, Metrics]],
    unit: str,
    transform: optax.GradientTransformation,
    microbatch: int,
) -> Callable[[State, Any, Any], tuple[State, Metrics]]:
    """`(state, trunk, batch) -> (state, metrics)`, one optimiser step, jitted. The state is donated.

    Args:
      loss: `(trunk, top, rows) -> (sum, sums)`, a loss and metrics that are sums over a unit.
      unit: the metric that counts the unit, e.g. "tokens". The step minimises the loss per unit of the whole batch, and
        its metrics are means per unit, but the count itself.
      transform: the optimiser.
      microbatch: rows of one forward and backward pass.
    """

    def step(state: State, trunk: Any, batch: Any) -> tuple[State, Metrics]:
        gradients, sums = summed_gradients(partial(loss, trunk), state.top, batch, microbatch)
        sums = {name: parts.sum() for name, parts in sums.items()}
        count = sums.pop(unit)
        gradients = jax.tree.map(lambda g: g / count, gradients)
        state = state.updated(gradients, transform).advanced(jax.tree.leaves(batch)[0].shape[0])
        means = {name: total / count for name, total in sums.items()}
        norms = {"gradient_norm": optax.global_norm(gradients), "parameter_norm": optax.global_norm(state.top)}
        return state, {**means, unit: count, **norms}

    return jit_step(step)
