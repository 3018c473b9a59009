"""`Sequences`: prompts with N responses each, the one shape of data that every network here reads.

Shape letters: B prompts, N responses of one prompt, P prompt length, R response length.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

type Array = jax.Array | np.ndarray


def real_positions(mask: Array) -> jax.Array:
    """`[..., T]` bool to int32: the index of each real token among the real tokens of its row."""
    return jnp.maximum(jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1, 0)


@flax.struct.dataclass
class Sequences:
    """Prompts and their responses, right-padded, with masks that are carried and never derived from ids.

    Attributes:
      prompt: `[B, P]` int32 token ids.
      prompt_mask: `[B, P]` bool, true on real tokens. Every row has at least one.
      response: `[B, N, R]` int32 token ids, EOS included where the response ended.
      response_mask: `[B, N, R]` bool, true on real tokens.
    """

    prompt: Array
    prompt_mask: Array
    response: Array
    response_mask: Array

    def context_mask(self) -> Array:
        """`[B, P]` bool: the prompt without its last token, which belongs to the continuation."""
        following = jnp.concatenate([self.prompt_mask[:, 1:], jnp.zeros_like(self.prompt_mask[:, :1])], axis=1)
        return self.prompt_mask & following

    def continuation(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The last prompt token followed by the response: `(tokens, mask, positions)`, each `[B, N, R + 1]`.

        Positions count real tokens from the start of the prompt.
        """
        batch, samples, _ = self.response.shape
        length = self.prompt_mask.sum(axis=1, dtype=jnp.int32)
        last = jnp.take_along_axis(self.prompt, (length - 1)[:, None], axis=1)
        first = jnp.broadcast_to(last[:, None], (batch, samples, 1))
        tokens = jnp.concatenate([first, self.response], axis=-1)
        mask = jnp.concatenate([jnp.ones((batch, samples, 1), bool), self.response_mask], axis=-1)
        positions = (length - 1)[:, None, None] + real_positions(mask)
        return tokens, mask, positions


def last_index(mask: jax.Array) -> jax.Array:
    """`[..., R] -> [...]`: index of the last real token. 0 for an empty row."""
    return jnp.max(jnp.where(mask, jnp.arange(mask.shape[-1]), 0), axis=-1)
