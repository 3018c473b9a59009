"""The state of a run and how gradients change it: sums over microbatches, one optimiser step."""

from collections.abc import Callable
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rlhf_jax.errors import UserError
from rlhf_jax.parallel import sharding

Loss = Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]


@flax.struct.dataclass
class State:
    """All that a run carries from step to step, one pytree. Random numbers are functions of (seed, step).

    Attributes:
      step: int32, steps done.
      position: int32, global examples consumed. The next batch is a pure function of it.
      top: the trained part of the network, float32.
      moments: the optimiser's state.
    """

    step: jax.Array
    position: jax.Array
    top: Any
    moments: optax.OptState

    @classmethod
    def create(cls, top: Any, transform: optax.GradientTransformation, **more: Any) -> Self:
        """The state before the first step. `more` are the fields that a stage's own state adds."""
        return sharding.spread(cls(jnp.int32(0), jnp.int32(0), top, transform.init(top), **more))

    def updated(self, gradients: Any, transform: optax.GradientTransformation) -> Self:
        """The state after one optimiser update. `step` and `position` stay."""
        updates, moments = transform.update(gradients, self.moments, self.top)
        return self.replace(top=optax.apply_updates(self.top, updates), moments=moments)

    def advanced(self, examples: int) -> Self:
        """The state with one more step done, in which so many examples were consumed."""
        return self.replace(step=self.step + 1, position=self.position + examples)


def microbatches(batch: Any, microbatch: int) -> tuple[Callable[[jax.Array], Any], int]:
    """`(take, count)`: `take(i)` are rows i, i + count, ... of the leading axis, `microbatch` of them.

    Every count-th row, so that where rows are divided over devices each device has its share of every microbatch.
    """
    count = jax.tree.leaves(batch)[0].shape[0] // microbatch
    cut = jax.tree.map(lambda x: x.reshape(microbatch, count, *x.shape[1:]), batch)
    return lambda i: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False), cut), count


def over_microbatches(function: Callable[[Any], Any], rows: Any, microbatch: int) -> Any:
    """`function(rows)` for the microbatches of rows in turn. Its results' rows are in the order of `rows` again."""
    take, count = microbatches(rows, microbatch)
    results = jax.lax.map(lambda i: function(take(i)), jnp.arange(count))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), results)


def summed_gradients(loss: Loss, params: Any, batch: Any, microbatch: int) -> tuple[Any, dict[str, jax.Array]]:
    """Gradients and metrics of a loss that is a sum over rows, accumulated over microbatches by a scan.

    Args:
      loss: `(params, rows) -> (sum, metrics)`.
      params: what is differentiated.
      batch: a pytree of arrays with the same leading axis.
      microbatch: rows of one forward and backward pass. Divides the leading axis.

    Returns:
      `(gradients, metrics)`: gradients are summed. Each metric is `[microbatches]`, the loss among them as "loss".
    """
    take, count = microbatches(batch, microbatch)

    def step(total: Any, index: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params, take(index))
        return jax.tree.map(jnp.add, total, gradients), {"loss": value, **metrics}

    return jax.lax.scan(step, jax.tree.map(jnp.zeros_like, params), jnp.arange(count))


def check_divides(name: str, size: int, what: str, total: int) -> None:
    """Raises UserError unless `size`, the key `name`, divides the `total` of `what`. Names the nearest that does."""
    if size < 1 or total % size:
        nearest = min((n for n in range(1, total + 1) if total % n == 0), key=lambda n: abs(n - size))
        raise UserError(f"{name} is {size}, which does not divide {what} {total}; {nearest} does")
