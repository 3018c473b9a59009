"""Matrix products with gradients that XLA's CPU backend runs at full speed, in bfloat16 too. Used by all layers.

That backend has no bfloat16 kernel for a product with a transposed operand: it computes it in float32, or fails. So
products here name the axes that they contract, and never transpose an operand.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.parallel import sharding

TILE = 64  # edge of the blocks in which `contract_rows` transposes


def contract_rows(a: Float[Array, "... s n"], b: Float[Array, "... s m"]) -> Float[Array, "... n m"]:
    """Sum over rows of outer products, in float32.

    This is the shape of a weight's gradient, for which XLA's CPU backend has no bfloat16 kernel. It has one for `a`
    transposed, but folds a plain transpose back into the product. It cannot fold a transpose through tiles. Measured in
    `docs/performance.md`.
    """
    *leading, rows, columns = a.shape
    if sharding.device().platform != "cpu" or rows % TILE or columns % TILE:
        return jnp.einsum("...sn,...sm->...nm", a, b, preferred_element_type=jnp.float32)
    tiles = a.reshape(*leading, rows // TILE, TILE, columns // TILE, TILE)
    axes = (*range(len(leading)), *(len(leading) + axis for axis in (2, 3, 0, 1)))
    transposed = tiles.transpose(axes).reshape(*leading, columns, rows)
    return jnp.einsum("...ns,...sm->...nm", transposed, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def matmul(x: Float[Array, "T D"], kernel: Float[Array, "D F"]) -> Float[Array, "T F"]:
    """`x @ kernel`, with gradients that the CPU compiler runs at full speed."""
    return x @ kernel


def matmul_gradients(residuals: tuple[jax.Array, jax.Array], dy: Float[Array, "T F"]) -> tuple[jax.Array, jax.Array]:
    """Gradients by both operands of `matmul`, given those as residuals and the gradient by its result."""
    x, kernel = residuals
    return jnp.einsum("tf,df->td", dy, kernel), contract_rows(x, dy).astype(kernel.dtype)


matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), matmul_gradients)


def dense(x: jax.Array, kernel: jax.Array, contract: int = 1) -> jax.Array:
    """Contracts the last `contract` axes of `x` with the first of `kernel`, in `x`'s dtype, tokens flattened.

    `[..., *inputs]` and `[*inputs, *outputs]` to `[..., *outputs]`. `contract` is the number of input axes.
    """
    leading, inputs, outputs = x.shape[: x.ndim - contract], kernel.shape[:contract], kernel.shape[contract:]
    width = math.prod(inputs)
    y = matmul(x.reshape(-1, width), kernel.astype(x.dtype).reshape(width, -1))
    return y.reshape(*leading, *outputs)
