"""Attention in parts: a prompt that N responses share, and each response's own tokens, merged by their log-sum-exps.

`attend` is the one primitive: batched, with heads in the batch, and a backward pass of its own that keeps only the
output and its log-sum-exp and recomputes the weights (Dao et al., 2022). Parts over disjoint keys are merged exactly
(flash-decoding), so a prompt's keys are stored and read once however many responses attend to them.

Shape letters: B prompts, N responses of one prompt, P prompt length, S tokens of a response, K KV heads, G queries of
one KV head, d head width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite: rows without any visible key stay finite and vanish when parts are merged
CHUNK = 128  # queries of one causal chunk; keys after its end are never touched


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
      `Part(out [..., S, d] in q's dtype, lse [..., S] float32)`; a query that sees nothing has out 0 and lse `MASKED`.
    """
    weights, lse = _weights(q, k, mask)
    return Part(_product("...st,...td->...sd", weights.astype(v.dtype), v).astype(q.dtype), lse)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A batched product, accumulated in float32. No explicit transposes: folded ones cost the fast bfloat16 kernel."""
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _scores(q: jax.Array, k: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, _product("...sd,...td->...st", q, k), MASKED)


def _weights(q: jax.Array, k: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    scores = _scores(q, k, mask)
    peak = scores.max(axis=-1, keepdims=True)
    weights = jnp.where(mask, jnp.exp(scores - peak), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    lse = jnp.where(total > 0, peak + jnp.log(jnp.maximum(total, 1e-30)), MASKED)[..., 0]
    return weights / jnp.maximum(total, 1e-30), lse


def _attend_forward(q, k, v, mask):
    part = attend(q, k, v, mask)
    return part, (q, k, v, mask, part)


def _attend_backward(residuals, cotangent):
    q, k, v, mask, part = residuals
    d_out, d_lse = cotangent
    d_out = d_out.astype(q.dtype)
    weights = jnp.where(mask, jnp.exp(_scores(q, k, mask) - part.lse[..., None]), 0.0)
    through_out = _product("...sd,...td->...st", d_out, v)
    drift = jnp.sum(d_out.astype(jnp.float32) * part.out.astype(jnp.float32), axis=-1, keepdims=True)
    d_scores = (weights * (through_out - drift + d_lse[..., None])).astype(q.dtype)
    d_q = _product("...st,...td->...sd", d_scores, k).astype(q.dtype)
    d_k = _product("...st,...sd->...td", d_scores, q).astype(k.dtype)
    d_v = _product("...st,...sd->...td", weights.astype(q.dtype), d_out).astype(v.dtype)
    return d_q, d_k, d_v, None


attend.defvjp(_attend_forward, _attend_backward)


def merge(first: Part, second: Part) -> jax.Array:
    """Attention over the union of two disjoint sets of keys: `[..., d]`, in `first.out`'s dtype."""
    lse = jnp.logaddexp(first.lse, second.lse)
    a, b = (jnp.exp(part.lse - lse)[..., None] for part in (first, second))
    return (a * first.out.astype(jnp.float32) + b * second.out.astype(jnp.float32)).astype(first.out.dtype)


class KeysValues(NamedTuple):
    """Keys and values with heads before tokens, as the batched products read them: `[..., K, T, d]` each."""

    keys: jax.Array
    values: jax.Array


def heads_first(k: jax.Array, v: jax.Array) -> KeysValues:
    """`[..., T, K, d] -> KeysValues [..., K, T, d]`."""
    return KeysValues(jnp.swapaxes(k, -2, -3), jnp.swapaxes(v, -2, -3))


def causal(q: jax.Array, own: KeysValues, mask: jax.Array) -> Part:
    """Each token attends to the real tokens up to itself, in chunks of queries.

    Args:
      q: `[..., S, K, G, d]`, scaled.
      own: `[..., K, S, d]`.
      mask: `[..., S]` bool, true on real tokens. A token always sees itself, so filler rows stay finite.

    Returns:
      `Part(out [..., S, K, G, d], lse [..., S, K, G])`.
    """
    *leading, length, kv_heads, group, width = q.shape
    outs, lses = [], []
    for start in range(0, length, CHUNK):
        stop = min(start + CHUNK, length)
        rows, columns = jnp.arange(start, stop)[:, None], jnp.arange(stop)[None, :]
        visible = (mask[..., None, :stop] & (columns <= rows)) | (columns == rows)
        visible = jnp.repeat(visible, group, axis=-2)[..., None, :, :]
        chunk = jnp.moveaxis(q[..., start:stop, :, :, :], -3, -4)
        chunk = chunk.reshape(*leading, kv_heads, (stop - start) * group, width)
        part = attend(chunk, own.keys[..., :stop, :], own.values[..., :stop, :], visible)
        outs.append(jnp.moveaxis(part.out.reshape(*leading, kv_heads, stop - start, group, width), -4, -3))
        lses.append(jnp.moveaxis(part.lse.reshape(*leading, kv_heads, stop - start, group), -3, -2))
    return Part(jnp.concatenate(outs, axis=-4), jnp.concatenate(lses, axis=-3))


def shared(q: jax.Array, prompt: KeysValues, mask: jax.Array) -> Part:
    """All tokens of all N responses attend to the one prompt, as a single product a head.

    Args:
      q: `[B, N, S, K, G, d]`, scaled.
      prompt: `[B, K, P, d]`.
      mask: `[B, P]` bool.

    Returns:
      `Part(out [B, N, S, K, G, d], lse [B, N, S, K, G])`.
    """
    batch, samples, length, kv_heads, group, width = q.shape
    rows = q.transpose(0, 3, 1, 2, 4, 5).reshape(batch, kv_heads, samples * length * group, width)
    part = attend(rows, prompt.keys, prompt.values, mask[:, None, None, :])
    out = part.out.reshape(batch, kv_heads, samples, length, group, width).transpose(0, 2, 3, 1, 4, 5)
    return Part(out, part.lse.reshape(batch, kv_heads, samples, length, group).transpose(0, 2, 3, 1, 4))


def cached(q: jax.Array, cache: KeysValues, mask: jax.Array) -> Part:
    """One new token of each response attends to that response's cache.

    Args:
      q: `[B, N, 1, K, G, d]`, scaled.
      cache: `[B, N, K, T, d]`.
      mask: `[B, N, T]` bool, true on the filled slots, the new token's own included.

    Returns:
      `Part(out [B, N, 1, K, G, d], lse [B, N, 1, K, G])`.
    """
    part = attend(q[:, :, 0], cache.keys, cache.values, mask[:, :, None, None, :])
    return Part(part.out[:, :, None], part.lse[:, :, None])
