"""Heads of the policy, the value function and the reward model on the final hidden states.

All start from `Model.top`'s `[B, N, R + 1, E]`: index `i` predicts response token `i`, index `i + 1` has read it.

Shape letters: B prompts, N responses of one prompt, R response length, E outer width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.models.logprobs import token_log_probs
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Edge, Model, Params, merge


def with_head(top: Params, role: str, kernel: Float[Array, " E"]) -> Params:
    """A top with the linear head of a role ("value" or "reward")."""
    return {**top, role: {"kernel": kernel}}


def random_head(key: jax.Array, width: int) -> Float[Array, " E"]:
    """A kernel with std `1 / sqrt(E + 1)`: initial scores have a variance near 1 (Stiennon et al., 2020)."""
    return nn.initializers.normal((width + 1) ** -0.5)(key, (width,), jnp.float32)


def log_probs(
    model: Model, params: Params, sequences: Sequences, hidden: jax.Array, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Log-probs of the response tokens and entropies of their distributions, each `[B, N, R]` float32 (nats)."""
    table = model.head_table(params)
    return token_log_probs(hidden[:, :, :-1], table, sequences.response, temperature, model.known_ids)


def values(params: Params, hidden: jax.Array) -> jax.Array:
    """The value before each response token: `[B, N, R]` float32. A head that came from a reward model has a bias."""
    head = params["value"]
    return _linear(hidden[:, :, :-1], head["kernel"]) + head.get("bias", 0.0)


def value_from_reward(top: Params, mean: float, std: float) -> Params:
    """A value head, kernel `[E]` and bias, that gives the normalised score where the reward head gives the raw one."""
    return {"kernel": top["reward"]["kernel"] / std, "bias": jnp.float32(-mean / std)}


def scores(params: Params, sequences: Sequences, hidden: jax.Array) -> jax.Array:
    """The reward model's raw score, read at the last real token from the mask: `[B, N]` float32."""
    last = sequences.response_mask.sum(axis=-1)  # continuation index of the last response token
    state = jnp.take_along_axis(hidden, last[..., None, None], axis=2)[:, :, 0]
    return _linear(state, params["reward"]["kernel"])


def _linear(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.sum(hidden.astype(jnp.float32) * kernel.astype(jnp.float32), axis=-1)


def score_edge(model: Model, trunk: Params, top: Params, sequences: Sequences, edge: Edge) -> jax.Array:
    """Raw scores of a reward model that shares the trunk, from the states at its edge: `[B, N]` float32."""
    params = merge(trunk, top)
    return scores(params, sequences, model.top(params, sequences, edge))
