"""Log-probabilities of tokens from hidden states, without holding all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

MASKED = -1e30  # a logit without mass; finite, so that products with a probability of 0 are 0


CHUNK = 256  # rows whose logits exist at one time


def mask_unknown(logits: Float[Array, "*B V"], ids: int) -> Float[Array, "*B V"]:
    """Logits with those of ids from `ids` on at `MASKED`: no probability, whatever the temperature."""
    if ids == logits.shape[-1]:
        return logits
    return jnp.where(jnp.arange(logits.shape[-1]) < ids, logits, MASKED)


def keep_largest(logits: Float[Array, "*B V"], count: int) -> Float[Array, "*B V"]:
    """Logits with all but the `count` largest at `MASKED`. Ties with the smallest of them are kept."""
    smallest = jax.lax.top_k(logits, count)[0][..., -1:]
    return jnp.where(logits >= smallest, logits, MASKED)


def token_log_probs(
    hidden: Float[Array, "*B D"],
    table: Float[Array, "V D"],
    tokens: Int[Array | np.ndarray, "*B"],
    temperature: float = 1.0,
    ids: int | None = None,
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """Log-probability of given tokens and entropy of their distributions, without ever holding all the logits.

    Args:
      hidden: states that predict the tokens.
      table: the LM head.
      tokens: the given tokens.
      temperature: divides the logits, as in sampling.
      ids: number of ids, None for V. The rest of V is in no softmax.

    Returns:
      `(log_probs, entropy)`, float32 (nats).
    """
    width, shape = hidden.shape[-1], tokens.shape
    ids = table.shape[0] if ids is None else ids
    table = table.astype(hidden.dtype)

    @jax.checkpoint
    def chunk(rows: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        states, targets = rows
        logits = jnp.einsum("td,vd->tv", states, table, preferred_element_type=jnp.float32) / temperature
        logits = mask_unknown(logits, ids)
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        entropy = normaliser - jnp.sum(jnp.exp(logits - normaliser[:, None]) * logits, axis=-1)
        return chosen - normaliser, entropy

    states, targets = hidden.reshape(-1, width), tokens.reshape(-1)
    count = targets.shape[0]
    chunks = -(-count // CHUNK)
    size = -(-count // chunks)
    states = jnp.pad(states, ((0, chunks * size - count), (0, 0))).reshape(chunks, size, width)
    targets = jnp.pad(targets, (0, chunks * size - count)).reshape(chunks, size)
    log_probs, entropy = jax.lax.map(chunk, (states, targets))
    return log_probs.reshape(-1)[:count].reshape(shape), entropy.reshape(-1)[:count].reshape(shape)
