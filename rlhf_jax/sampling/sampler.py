"""Samples N responses per prompt: one prefill, then one jitted while-loop that exits early.

`prefill` and `decode` are separate functions, so that they can be separate programs and be timed. Decoding feeds the
continuation: the last prompt token, then each response token. So its first step already predicts a response token, and
the prompt itself only supplies keys and values. Decoding keeps the state at the trunk's edge of every fed token, for
reference log-probs, scores, values and updates. A reward model reads the state of a response's last token, which a
sampler would never feed. One trunk-only step after the loop does.

Shape letters: B prompts, N samples of one prompt, P prompt length, R largest response length, M = B * N rows,
V vocabulary, K KV heads, d head width, D width, E outer width.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models import attention, scan
from rlhf_jax.models.attention import KeysValues
from rlhf_jax.models.logprobs import keep_largest, mask_unknown
from rlhf_jax.models.sequences import Sequences, real_positions
from rlhf_jax.models.transformer import Edge, Model, Params
from rlhf_jax.parallel import sharding

BLOCK = 256  # vocabulary entries of one block of the two-level inverse CDF


@flax.struct.dataclass
class Sampled:
    """The result of sampling.

    Attributes:
      sequences: prompts and sampled responses, EOS included and in the mask.
      edge: states at the trunk's edge of every token that was fed.
      log_probs: float32, of the sampled tokens at the sampling temperature, 0 outside the mask.
      finished: true if EOS was sampled, false if the length limit cut.
    """

    sequences: Sequences
    edge: Edge
    log_probs: Float[Array, "B N R"]
    finished: Bool[Array, "B N"]


@flax.struct.dataclass
class Prefilled:
    """The contexts (prompts without their last tokens) as `prefill` read them, shared by all samples.

    Attributes:
      layers: keys and values `[L', B, K, P, d]`, one entry for each of the L' blocks of `Model.runs`, in the compute
        dtype.
      mask: true on the tokens of the context.
      edge: states at the trunk's edge (or the token ids, as in `Edge.context`).
    """

    layers: list[KeysValues]
    mask: Bool[Array, "B P"]
    edge: Float[Array, "B P D"] | Int[Array, "B P"]


class _State(NamedTuple):
    """The loop's state. `step` inputs have been fed and as many tokens sampled."""

    step: Int[Array, ""]
    token: Int[Array, "B N"]  # fed next
    finished: Bool[Array, "B N"]
    tokens: Int[Array, "B N R"]
    mask: Bool[Array, "B N R"]
    log_probs: Float[Array, "B N R"]
    states: Float[Array, "B N R+1 D"] | Int[Array, "B N R+1"]  # at the trunk's edge
    caches: list[KeysValues]  # [L', B, K, N, R + 1, d] a run of L' blocks


def draw(logits: Float[Array, "M V"], uniform: Float[Array, " M"]) -> Int[Array, " M"]:
    """Samples one int32 index per row from `softmax(logits)` by the inverse CDF, in two levels of sums.

    The float32 logits of indices that must not be drawn are -inf or very negative. `uniform` is in [0, 1). The CDF is
    scaled by its own last value. An index without mass is never returned, whatever the rounding.
    """
    rows, size = logits.shape
    mass = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    blocks = jnp.pad(mass, ((0, 0), (0, -size % BLOCK))).reshape(rows, -1, BLOCK)

    def pick(weights: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The first index with weight whose cumulative weight exceeds the target, and what is left of the target."""
        cumulative = jnp.cumsum(weights, axis=-1)  # summed in parallel: rounding may move it even where the weight is 0
        indices = jnp.arange(weights.shape[-1], dtype=jnp.int32)
        last = jnp.max(jnp.where(weights > 0, indices, 0), axis=-1)
        beyond = (weights > 0) & (cumulative > target[:, None])
        index = jnp.min(jnp.where(beyond, indices, last[:, None]), axis=-1)
        before = jnp.take_along_axis(cumulative - weights, index[:, None], axis=-1)[:, 0]
        return index, target - before

    sums = blocks.sum(axis=-1)
    block, rest = pick(sums, uniform * sums.sum(axis=-1))
    inside, _ = pick(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], rest)
    return block * BLOCK + inside


def _unanswered(
    prompt: Int[Array, "B P"], prompt_mask: Bool[Array, "B P"], samples: int, length: int, eos_id: int
) -> Sequences:
    """The prompts, each with `samples` empty responses in buffers of `length` tokens."""
    shape = (prompt.shape[0], samples, length)
    return Sequences(prompt, prompt_mask, jnp.full(shape, eos_id, jnp.int32), jnp.zeros(shape, bool))


def prefill(
    model: Model, params: Params, prompt: Int[Array, "B P"], prompt_mask: Bool[Array, "B P"], *, max_new_tokens: int
) -> Prefilled:
    """Reads the right-padded prompts, to which `decode` will add R tokens. Jit it with the keyword argument static.

    Float32 parameters are cast to the compute dtype.

    Raises:
      UserError: the network has fewer than P + R positions.
    """
    model.check_length(prompt.shape[1] + max_new_tokens)
    params = model.cast(params)
    mask = _unanswered(prompt, prompt_mask, 0, 0, 0).context_mask()
    positions = real_positions(mask)
    angles = model.angles(positions)
    x = model.embed(params, prompt, positions)
    edge = x if model.freeze else prompt
    layers = []
    *runs, last = model.runs
    for run in runs:

        def step(block: Params, x: jax.Array, _: None, layer: int = run[0]) -> tuple[jax.Array, KeysValues]:
            return model.read_context(block, layer, x, mask, angles)

        x, keys_values = scan.through(params["layers"], run, step, x)
        layers.append(keys_values)
        if run[-1] + 1 == model.frozen_layers:
            edge = x

    def read(block: Params, x: jax.Array, _: None) -> tuple[None, KeysValues]:
        return None, model.keys_values(block, last[0], x, angles)

    _, keys_values = scan.through(params["layers"], last, read, x)
    layers.append(keys_values)
    return Prefilled(layers, mask, edge)


def _feed(
    model: Model,
    params: Params,
    x: jax.Array,
    position: jax.Array,
    slot: jax.Array,
    prompt: Prefilled,
    caches: list[KeysValues],
    frozen: bool,
) -> tuple[jax.Array, list[KeysValues]]:
    """Runs one token of every row, `[B, N, 1, D]`, through the trunk or the top and writes its caches at `slot`."""
    angles = model.angles(position)
    age = slot - jnp.arange(caches[0].keys.shape[4])  # of the cache's entries, in tokens; negative where unwritten
    caches = list(caches)
    for i, run in enumerate(model.runs):
        if (run[0] < model.frozen_layers) != frozen:
            continue
        window = model.architecture.window(run[0], prompt.mask.shape[1] + len(age))

        # The run's caches are carried from block to block, each of which writes to its own share in place.
        def step(
            block: Params,
            carry: tuple[jax.Array, KeysValues],
            inputs: tuple[jax.Array, KeysValues],
            layer: int = run[0],
            window: int | None = window,
        ) -> tuple[tuple[jax.Array, KeysValues], None]:
            (x, stack), (index, shared) = carry, inputs
            kept: list[KeysValues] = []

            def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
                written = KeysValues(_write(stack.keys, k, index, slot), _write(stack.values, v, index, slot))
                kept.append(written)
                cache = KeysValues(*(jax.lax.dynamic_index_in_dim(each, index, keepdims=False) for each in written))
                own = attention.cached(q, cache, (age >= 0) if window is None else (age >= 0) & (age < window))
                return attention.merge(own, attention.shared(q, shared, prompt.mask, position, window))

            x = model.block(block, layer, x, angles, attend)
            return (x, kept[0]), None

        inputs = (np.arange(len(run), dtype=np.int32), prompt.layers[i])
        (x, caches[i]), _ = scan.through(params["layers"], run, step, (x, caches[i]), inputs)
    return x, caches


def _write(stack: jax.Array, new: jax.Array, index: jax.Array, slot: jax.Array) -> jax.Array:
    """A block's new keys or values `[B, K, N, 1, d]` into its share of a run's `[L', B, K, N, R + 1, d]`."""
    return jax.lax.dynamic_update_slice(stack, new[None], (index, 0, 0, 0, slot, 0))


def decode(
    model: Model,
    params: Params,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"],
    prefilled: Prefilled,
    prompt_ids: Int[Array, " B"],
    key: jax.Array,
    temperature: jax.Array | float,
    *,
    samples: int,
    max_new_tokens: int,
    eos_id: int,
    top_k: int = 0,
) -> Sampled:
    """Samples responses. Jit it with the keyword arguments static.

    A token's random number is folded from (prompt id, sample, position) alone, so a sample depends neither on the rest
    of its batch nor on N. Float32 parameters are cast to the compute dtype once.

    Args:
      model: the network's functions.
      params: all parameters.
      prompt: right-padded.
      prompt_mask: true on its tokens.
      prefilled: the result of `prefill` for the same parameters and prompts.
      prompt_ids: seeds of the prompts' random numbers.
      key: PRNG key.
      temperature: divides the logits. 0 is greedy, and then log-probs are those of temperature 1.
      samples: N.
      max_new_tokens: R.
      eos_id: ends a response.
      top_k: draws from the k likeliest tokens, while log-probs stay those of the full softmax (the study's samples,
        `docs/method.md`). 0 draws from all.
    """
    batch = prompt.shape[0]
    params = model.cast(params)
    table = model.head_table(params)
    empty = _unanswered(prompt, prompt_mask, samples, max_new_tokens, eos_id)
    first, _, positions = empty.continuation()
    start = positions[..., :1]  # [B, N, 1]: position of the last prompt token
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(prompt_ids)
    keys = jax.vmap(lambda k: jax.vmap(lambda n: jax.random.fold_in(k, n))(jnp.arange(samples)))(keys)

    def run_trunk(state: _State) -> tuple[jax.Array, jax.Array, list[KeysValues]]:
        """Feeds `state.token` through the trunk and keeps its edge state."""
        position = start + state.step
        x = model.embed(params, state.token[:, :, None], position)
        x, caches = _feed(model, params, x, position, state.step, prefilled, state.caches, frozen=True)
        edge = x if model.freeze else state.token[:, :, None]
        return x, jax.lax.dynamic_update_slice_in_dim(state.states, edge, state.step, axis=2), caches

    def next_token(hidden: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = jnp.einsum("md,vd->mv", hidden.reshape(batch * samples, -1), table, preferred_element_type=jnp.float32)
        logits = mask_unknown(logits / jnp.where(temperature > 0, temperature, 1.0), model.known_ids)
        uniform = jax.vmap(jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, step))))(keys).reshape(-1)
        token = jax.lax.cond(
            temperature > 0,
            lambda: draw(keep_largest(logits, top_k) if top_k else logits, uniform),
            lambda: jnp.argmax(logits, axis=-1).astype(jnp.int32),
        )
        chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
        log_prob = chosen - jax.nn.logsumexp(logits, axis=-1)
        return token.reshape(batch, samples), log_prob.reshape(batch, samples)

    def body(state: _State) -> _State:
        x, states, caches = run_trunk(state)
        x, caches = _feed(model, params, x, start + state.step, state.step, prefilled, caches, frozen=False)
        token, log_prob = next_token(model.finish(params, x), state.step)
        alive = ~state.finished
        token = jnp.where(alive, token, eos_id)

        def write(buffer: jax.Array, column: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(buffer, column[..., None], state.step, axis=2)

        return _State(
            step=state.step + 1,
            token=token,
            finished=state.finished | (token == eos_id),
            tokens=write(state.tokens, token),
            mask=write(state.mask, alive),
            log_probs=write(state.log_probs, jnp.where(alive, log_prob, 0.0)),
            states=states,
            caches=caches,
        )

    a = model.architecture

    def cache(run: range) -> KeysValues:
        empty = jnp.zeros((len(run), batch, a.kv_heads, samples, max_new_tokens + 1, a.head_dim), model.dtype)
        return KeysValues(*[sharding.constrain(empty, None, "batch", "kv_heads")] * 2)

    edge_shape = (batch, samples, max_new_tokens + 1)
    states = jnp.zeros((*edge_shape, a.width), model.dtype) if model.freeze else jnp.zeros(edge_shape, jnp.int32)
    initial = _State(
        step=jnp.int32(0),
        token=first[..., 0],
        finished=jnp.zeros((batch, samples), bool),
        tokens=empty.response,
        mask=empty.response_mask,
        log_probs=jnp.zeros(empty.response.shape, jnp.float32),
        states=sharding.constrain(states, "batch"),
        caches=[cache(run) for run in model.runs],
    )
    final = jax.lax.while_loop(lambda s: (s.step < max_new_tokens) & ~jnp.all(s.finished), body, initial)
    _, states, _ = run_trunk(final)  # the token sampled last, where a reward model reads
    return Sampled(
        sequences=empty.replace(response=final.tokens, response_mask=final.mask),
        edge=Edge(prefilled.edge, states),
        log_probs=final.log_probs,
        finished=final.finished,
    )
