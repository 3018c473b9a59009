"""Attention in parts: a prompt that N responses share, and each response's own tokens, merged by their log-sum-exps.

It runs on every platform, with any window, and decoding uses it everywhere (see `attention`).

`attend` is the one primitive: batched, with heads in the batch, and a backward pass of its own that keeps only the
output and its log-sum-exp and recomputes the weights (Dao et al., 2022). Parts over disjoint keys are merged exactly
(flash-decoding), so a prompt's keys are stored and read once however many responses attend to them.

Heads come right after the batch, so that both parts are plain reshapes of one layout: queries `[B, K, ..., G, S, d]`,
keys and values `[B, K, ..., T, d]`, where `...` is N for responses and nothing for prompts.

Shape letters: B prompts, N responses of one prompt, P prompt length, S queries' tokens, T keys' tokens, K KV heads,
G queries of one KV head, d head width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.models.matmul import contract_rows

MASKED = -1e30  # finite: what no query may see vanishes in the sums, and rows that see nothing stay finite
CHUNK = 128  # queries of one causal chunk; keys after its end are never touched


class KeysValues(NamedTuple):
    """Keys and values that later tokens attend to: `[B, K, ..., T, d]` each."""

    keys: jax.Array
    values: jax.Array


class Part(NamedTuple):
    """Attention over some of the keys: `out` `[..., d]` normalised over them, `lse` `[...]` float32 its log-sum-exp."""

    out: jax.Array
    lse: jax.Array


@jax.custom_vjp
def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> Part:
    """Softmax attention of already scaled queries.

    Args:
      q: `[..., S, d]`, scaled by the caller.
      k: `[..., T, d]`.
      v: `[..., T, d]`.
      mask: bool, broadcastable to `[..., S, T]`, true where a query may see a key.

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
    return jnp.where(mask, _product("...sd,...td->...st", q, k), MASKED)


def _attend_forward(q, k, v, mask):
    part = attend(q, k, v, mask)
    return part, (q, k, v, mask, part)


def _attend_backward(residuals, cotangent):
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


def causal(q: jax.Array, own: KeysValues, mask: jax.Array, window: int | None = None) -> Part:
    """Each token attends to the real tokens up to itself, in chunks of queries.

    Args:
      q: `[B, K, ..., G, S, d]`, scaled.
      own: `[B, K, ..., S, d]`.
      mask: `[B, ..., S]` bool, true on real tokens. A token always sees itself, so filler rows stay finite.
      window: how many real tokens a token sees, itself included. None for all.

    Returns:
      `Part(out [B, K, ..., G, S, d], lse [B, K, ..., G, S])`.
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


def shared(q: jax.Array, prompt: KeysValues, mask: jax.Array, positions: jax.Array, window: int | None = None) -> Part:
    """All tokens of all N responses attend to the one prompt, as a single product a head.

    Args:
      q: `[B, K, N, G, S, d]`, scaled.
      prompt: `[B, K, P, d]`.
      mask: `[B, P]` bool.
      positions: `[B, N, S]` of the queries' tokens, counted from the prompt's first real token.
      window: how many real tokens a token sees, itself included. None for all.

    Returns:
      `Part(out [B, K, N, G, S, d], lse [B, K, N, G, S])`.
    """
    rows = q.reshape(*q.shape[:2], -1, q.shape[-1])
    visible = mask[:, None, None, :]
    if window is not None:
        distance = positions[..., None] - (jnp.cumsum(mask, axis=-1) - 1)[:, None, None, :]  # [B, N, S, P]
        near = jnp.broadcast_to((distance < window)[:, :, None], (*distance.shape[:2], q.shape[3], *distance.shape[2:]))
        visible = visible & near.reshape(len(mask), 1, -1, mask.shape[1])
    part = attend(rows, prompt.keys, prompt.values, visible)
    return Part(part.out.reshape(q.shape), part.lse.reshape(q.shape[:-1]))


def cached(q: jax.Array, cache: KeysValues, visible: jax.Array) -> Part:
    """One new token of each response attends to that response's cache.

    Args:
      q: `[B, K, N, G, 1, d]`, scaled.
      cache: `[B, K, N, T, d]`.
      visible: `[T]` bool, true on the slots that the token sees, its own included.

    Returns:
      `Part(out [B, K, N, G, 1, d], lse [B, K, N, G, 1])`.
    """
    part = attend(q[..., 0, :], cache.keys, cache.values, visible)
    return Part(part.out[..., None, :], part.lse[..., None])
