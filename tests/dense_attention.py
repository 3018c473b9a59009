"""Attention as it is written in books, which every implementation is held against, and how they are compared."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def holes(seed: int, *shape: int) -> np.ndarray:
    """A mask with a third of it hidden."""
    return np.random.default_rng(seed).random(shape) > 1 / 3


def dense(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """`softmax(q k^T) v` over the visible keys as it is written in books, 0 where there is none."""
    scores = jnp.einsum("...sd,...td->...st", q, k)
    weights = jnp.where(mask, jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))), 0.0)
    return jnp.einsum("...st,...td->...sd", weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-9), v)


def assert_equal_with_gradients(actual, expected, arguments, seed=99, atol=2e-5):
    """Both functions of `arguments` give one array. They and the gradients of a random projection of it agree."""
    shape = jax.eval_shape(actual, *arguments).shape
    projection = normal(seed, *shape)

    def both(function):
        def projected(*arguments):
            out = function(*arguments)
            return jnp.sum(out * projection), out

        return jax.jit(jax.grad(projected, argnums=tuple(range(len(arguments))), has_aux=True))(*arguments)

    for a, e in zip(jax.tree.leaves(both(actual)), jax.tree.leaves(both(expected)), strict=True):
        np.testing.assert_allclose(a, e, atol=atol * max(1.0, float(jnp.abs(e).max())))


def causal_view(mask: np.ndarray, window: int | None = None) -> np.ndarray:
    """`[..., S] -> [..., S, S]`: the last `window` real tokens up to itself, and always itself."""
    length = mask.shape[-1]
    view = np.tril(np.ones((length, length), bool)) & mask[..., None, :]
    if window is not None:  # from the end of a row, real tokens are counted down
        later = np.flip(np.cumsum(np.flip(view, -1), -1), -1)
        view &= later <= window
    return view | np.eye(length, dtype=bool)


def dense_causal(q: jax.Array, k: jax.Array, v: jax.Array, mask: np.ndarray, window: int | None = None) -> jax.Array:
    """`q [B, K, G, S, d]`, `k` and `v [B, K, S, d]`, `mask [B, S]`, head by head."""
    heads, group = q.shape[1:3]
    view = causal_view(mask, window)
    rows = [[dense(q[:, h, g], k[:, h], v[:, h], view) for g in range(group)] for h in range(heads)]
    return jnp.stack([jnp.stack(row, axis=1) for row in rows], axis=1)


def dense_responses(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    prompt_k: jax.Array,
    prompt_v: jax.Array,
    mask: np.ndarray,
    prompt_mask: np.ndarray,
    window: int | None = None,
) -> jax.Array:
    """`q [B, K, N, G, S, d]`, response by response: causal attention over its prompt and itself, as one row."""
    length = prompt_mask.shape[1]

    def response(n: int) -> jax.Array:
        filler = jnp.zeros((*q.shape[:2], q.shape[3], length, q.shape[-1]))
        rows = (jnp.concatenate(pair, axis=2) for pair in ((prompt_k, k[:, :, n]), (prompt_v, v[:, :, n])))
        whole = np.concatenate([prompt_mask, mask[:, n]], axis=-1)
        return dense_causal(jnp.concatenate([filler, q[:, :, n]], axis=3), *rows, whole, window)[:, :, :, length:]

    return jnp.stack([response(n) for n in range(q.shape[2])], axis=2)
