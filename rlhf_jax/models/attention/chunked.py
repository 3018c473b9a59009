"""Attention in parts: a prompt that N responses share, and each response's own tokens, merged by their log-sum-exps.

It runs on every platform, with any window, and decoding uses it everywhere (see `dispatch`).

`attend` is the one primitive: batched, with heads in the batch. Its own backward pass keeps only the output and its
log-sum-exp and recomputes the weights (Dao et al., 2022). Parts over disjoint keys are merged exactly
(flash-decoding), so a prompt's keys are stored and read once however many responses attend to them.

Heads come right after the batch, so that both parts are plain reshapes of one layout: queries `[B, K, ..., G, S, d]`,
keys and values `[B, K, ..., T, d]`, where `...` is N for responses and nothing for prompts. Queries are scaled by the
caller. A window is the number of real tokens that a token sees, itself included, or None for all.

Shape letters: B prompts, N responses of one prompt, P prompt length, S queries' tokens, T keys' tokens, K KV heads,
G queries of one KV head, d head width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.matmul import contract_rows

MASKED = -1e30  # finite: what no query may see vanishes in the sums, and rows that see nothing stay finite
CHUNK = 128  # queries of one causal chunk, whose keys after its end are never read


class KeysValues(NamedTuple):
    """Keys and values that later tokens attend to: `[B, K, ..., T, d]` each."""

    keys: jax.Array
    values: jax.Array


class Part(NamedTuple):
    """Attention over some of the keys: `out` `[..., d]` normalised over them, `lse` `[...]` float32 its log-sum-exp."""

    out: jax.Array
    lse: jax.Array


@jax.custom_vjp
def attend(
    q: Float[Array, "... S d"], k: Float[Array, "... T d"], v: Float[Array, "... T d"], mask: Bool[Array, "..."]
) -> Part:
    """Softmax attention. `mask`, which broadcasts to `[..., S, T]`, is true where a query may see a key.

    Returns:
      `Part(out [..., S, d] in q's dtype, lse [..., S] float32)`. A query that sees nothing has an lse near `MASKED`, by
      which `merge` gives its meaningless `out` no weight.
    """
    scores = _scores(q, k, mask)
    peak = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True)
    out = _product("...st,...td->...sd", weights.astype(v.dtype), v) / total
    return Part(out.astype(q.dtype), (peak + jnp.log(total))[..., 0])


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A batched product, accumulated in float32. No explicit transposes: folded ones cost the fast bfloat16 kernel."""
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _scores(q: jax.Array, k: jax.Array, mask: jax.Array) -> jax.Array:
    """Products of queries and keys `[..., S, T]`, `MASKED` where the mask is false."""
    return jnp.where(mask, _product("...sd,...td->...st", q, k), MASKED)


def _attend_forward(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> tuple[Part, tuple[Any, ...]]:
    part = attend(q, k, v, mask)
    return part, (q, k, v, mask, part)


def _attend_backward(residuals: tuple[Any, ...], cotangent: Part) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, mask, part = residuals
    d_out, d_lse = cotangent
    # A row that saw nothing passes nothing on. The select also keeps transposes from being folded into the products.
    d_out = jnp.where(part.lse[..., None] > 0.5 * MASKED, d_out, 0)
    weights = jnp.exp(_scores(q, k, mask) - part.lse[..., None])
    drift = jnp.sum(d_out.astype(jnp.float32) * part.out.astype(jnp.float32), axis=-1, keepdims=True)
    d_weights = _product("...sd,...td->...st", d_out, v)
    d_scores = (weights * (d_weights - drift + d_lse[..., None])).astype(q.dtype)
    d_q = _product("...st,...td->...sd", d_scores, k).astype(q.dtype)
    d_k = contract_rows(d_scores, q).astype(k.dtype)
    d_v = contract_rows(weights.astype(q.dtype), d_out).astype(v.dtype)
    return d_q, d_k, d_v, None


attend.defvjp(_attend_forward, _attend_backward)


def merge(first: Part, second: Part) -> jax.Array:
    """Attention over the union of two disjoint sets of keys: `[..., d]`, in `first.out`'s dtype."""
    lse = jnp.logaddexp(first.lse, second.lse)
    a, b = (jnp.exp(part.lse - lse)[..., None] for part in (first, second))
    return (a * first.out.astype(jnp.float32) + b * second.out.astype(jnp.float32)).astype(first.out.dtype)


def causal(
    q: Float[Array, "B K ... G S d"], own: KeysValues, mask: Bool[Array, "B ... S"], window: int | None = None
) -> Part:
    """Each token attends to the real tokens up to itself, in chunks of queries: `out` of q's shape.

    `mask` is true on real tokens. A token always sees itself, so filler rows stay finite.
    """
    *leading, group, length, width = q.shape
    positions = jnp.cumsum(mask, axis=-1)
    outs, lses = [], []
    for start in range(0, length, CHUNK):
        stop = min(start + CHUNK, length)
        rows, columns = jnp.arange(start, stop)[:, None], jnp.arange(stop)[None, :]
        visible = mask[..., None, :stop] & (columns <= rows)
        if window is not None and window < length:
            visible &= positions[..., start:stop, None] - positions[..., None, :stop] < window
        visible |= columns == rows
        # The G queries of a KV head are further rows, each with the same view.
        visible = jnp.tile(visible, (*(1 for _ in visible.shape[:-2]), group, 1))[:, None]
        chunk = q[..., start:stop, :].reshape(*leading, group * (stop - start), width)
        part = attend(chunk, own.keys[..., :stop, :], own.values[..., :stop, :], visible)
        outs.append(part.out.reshape(*leading, group, stop - start, width))
        lses.append(part.lse.reshape(*leading, group, stop - start))
    return Part(jnp.concatenate(outs, axis=-2), jnp.concatenate(lses, axis=-1))


def shared(
    q: Float[Array, "B K N G S d"],
    prompt: KeysValues,
    mask: Bool[Array, "B P"],
    positions: Int[Array, "B N S"],
    window: int | None = None,
) -> Part:
    """All tokens of all N responses attend to the one prompt, as a single product per head: `out` of q's shape.

    `mask` is the prompt's. `positions` are those of the queries' tokens, counted from the prompt's first real token.
    """
    rows = q.reshape(*q.shape[:2], -1, q.shape[-1])
    visible = mask[:, None, None, :]
    if window is not None:
        distance = positions[..., None] - (jnp.cumsum(mask, axis=-1) - 1)[:, None, None, :]  # [B, N, S, P]
        near = jnp.broadcast_to((distance < window)[:, :, None], (*distance.shape[:2], q.shape[3], *distance.shape[2:]))
        visible = visible & near.reshape(len(mask), 1, -1, mask.shape[1])
    part = attend(rows, prompt.keys, prompt.values, visible)
    return Part(part.out.reshape(q.shape), part.lse.reshape(q.shape[:-1]))


def cached(q: Float[Array, "B K N G 1 d"], cache: KeysValues, visible: Bool[Array, " T"]) -> Part:
    """One new token of each response attends to that response's cache, `[B, K, N, T, d]`: `out` of q's shape.

    `visible` is true on the slots that the token sees, its own included.
    """
    part = attend(q[..., 0, :], cache.keys, cache.values, visible)
    return Part(part.out[..., None, :], part.lse[..., None])
