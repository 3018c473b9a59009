"""Sampling for stages: many prompts through the jitted sampler, in batches of few shapes, with scores if asked for."""

import math
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from rlhf_jax.data.batches import right_padded
from rlhf_jax.errors import UserError
from rlhf_jax.models.transformer import Model, Params, merge
from rlhf_jax.parallel import sharding
from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling import sampler
from rlhf_jax.sampling.sampler import Prefilled, Sampled
from rlhf_jax.sampling.score import Score

LENGTH_STEP = 64  # prompts are padded to multiples of this many tokens

Timed = Callable[..., Any]  # `(phase, function, *arguments) -> function(*arguments)`


class Sampler(NamedTuple):
    """The programs of sampling, called in one go or separately, to time each.

    Attributes:
      longest_prompt: tokens of the longest prompt whose responses still have positions, or None for any length.
      prefill: `(trunk, top, prompt, prompt_mask) -> Prefilled`, jitted, see `sampling.sampler.prefill`.
      decode_at: `(trunk, top, prompt, prompt_mask, prefilled, prompt_ids, key, temperature) -> Sampled`, jitted, see
        `sampling.sampler.decode`. The temperature is an argument, so that several temperatures share a program.
      join: `(k batches) -> Sampled`, jitted. Batch i holds every k-th row, starting at row i.
      temperature: of `decode`.
    """

    longest_prompt: int | None
    prefill: Callable[..., Prefilled]
    decode_at: Callable[..., Sampled]
    join: Callable[[list[Sampled]], Sampled]
    temperature: float

    def decode(self, *arguments: Any) -> Sampled:
        """`decode_at` this sampler's temperature."""
        return self.decode_at(*arguments, sharding.spread(self.temperature))

    def __call__(
        self, trunk: Params, top: Params, prompt: jax.Array, prompt_mask: jax.Array, *arguments: jax.Array
    ) -> Sampled:
        """Prefill and decode: `arguments` are the prompt ids and the key."""
        prefilled = self.prefill(trunk, top, prompt, prompt_mask)
        return self.decode(trunk, top, prompt, prompt_mask, prefilled, *arguments)


def make_sample(
    model: Model, *, samples: int, max_new_tokens: int, temperature: float, eos_id: int, top_k: int = 0
) -> Sampler:
    """Builds the sampling programs. The keyword arguments are those of `sampling.sampler.decode`.

    Raises:
      UserError: the temperature is negative or not finite, or `top_k` is more than there are tokens.
    """
    if not 0 <= temperature < math.inf:
        raise UserError(f"the temperature is {temperature}, expected 0 (greedy) or more")
    if top_k > model.known_ids:
        raise UserError(f"top_k is {top_k}, expected at most {model.known_ids}, the tokens that there are")
    sizes = {"samples": samples, "max_new_tokens": max_new_tokens, "eos_id": eos_id, "top_k": top_k}

    def prefill(trunk: Params, top: Params, *arguments: jax.Array) -> Prefilled:
        return sampler.prefill(model, merge(trunk, top), *arguments, max_new_tokens=max_new_tokens)

    def decode(trunk: Params, top: Params, *arguments: jax.Array) -> Sampled:
        return sampler.decode(model, merge(trunk, top), *arguments, **sizes)

    longest = model.longest_prompt(max_new_tokens)
    return Sampler(longest, jit(prefill), jit(decode), jit(_joined), temperature)


def _joined(batches: list[Sampled]) -> Sampled:
    def join(*parts: jax.Array) -> jax.Array:
        return sharding.constrain(jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]), "batch")

    return jax.tree.map(join, *batches)


def untimed[T](phase: str, function: Callable[..., T], *arguments: Any) -> T:
    """Only calls."""
    return function(*arguments)


def sample_rollout(
    sample: Sampler,
    trunk: Params,
    top: Params,
    prompt: Int[np.ndarray, "B P"],
    prompt_mask: Bool[np.ndarray, "B P"],
    prompt_ids: Int[np.ndarray, " B"],
    key: jax.Array,
    *,
    batch_size: int,
    timed: Timed = untimed,
) -> Sampled:
    """Samples responses to all prompts of a rollout, with the keys and values of one batch in memory at once.

    A batch is every k-th prompt, as in `training.state.microbatches`, so that its rows stay on their devices when the
    batches are joined. The samples do not depend on `batch_size`.

    Args:
      sample: from `make_sample`.
      trunk: frozen parameters.
      top: the policy's top.
      prompt: right-padded.
      prompt_mask: true on its tokens.
      prompt_ids: numbers that the prompts' random numbers are folded from.
      key: PRNG key.
      batch_size: prompts sampled at once. It divides B.
      timed: calls the programs, with the phases "prefill" and "decode".
    """
    count = len(prompt) // batch_size
    batches = []
    for i in range(count):
        *prompts, ids = sharding.rows(tuple(rows[i::count] for rows in (prompt, prompt_mask, prompt_ids)))
        inputs = (trunk, top, *prompts)
        batches.append(  # a batch's keys and values have no name: they are freed before anything else runs
            timed("decode", sample.decode, *inputs, timed("prefill", sample.prefill, *inputs), ids, key)
        )
    return batches[0] if count == 1 else timed("decode", sample.join, batches)


def prompt_id(name: str) -> int:
    """Converts a record's id to the number that its random numbers are folded from, whatever the order of records."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


class Responses(NamedTuple):
    """The N responses to one prompt, as lists.

    Attributes:
      tokens: ids of each response, EOS included.
      finished: whether each ended in EOS.
      scores: normalised scores, or None without a reward model.
    """

    tokens: list[list[int]]
    finished: list[bool]
    scores: list[float] | None


def unpack(sampled: Sampled, scores: Float[np.ndarray, "B N"] | None, rows: int) -> list[Responses]:
    """The responses to the first `rows` prompts of a batch, the ones that are no fillers.

    Raises:
      UserError: a log-prob or score is not a finite number.
    """
    log_probs, response, mask, finished = sharding.whole(
        (sampled.log_probs, sampled.sequences.response, sampled.sequences.response_mask, sampled.finished)
    )
    if not np.isfinite(log_probs).all() or (scores is not None and not np.isfinite(scores).all()):
        raise UserError("sampling gave log-probs or scores that are not finite; the weights are broken")
    lengths = mask.sum(axis=-1)
    return [
        Responses(
            tokens=[ids[:length].tolist() for ids, length in zip(response[row], lengths[row], strict=True)],
            finished=finished[row].tolist(),
            scores=None if scores is None else scores[row].tolist(),
        )
        for row in range(rows)
    ]


def sample_prompts(
    sample: Sampler,
    trunk: Params,
    top: Params,
    prompts: Sequence[Sequence[int]],
    prompt_ids: Sequence[int],
    *,
    batch_size: int,
    pad_id: int,
    key: jax.Array,
    score: Score | None = None,
    done: Collection[int] = (),
) -> Iterator[list[tuple[int, Responses]]]:
    """Samples every prompt, batched by length, and yields each batch as soon as it is done.

    Order and batches do not depend on what is done, so neither does anything that is yielded, to the last bit.

    Args:
      sample: from `make_sample`.
      trunk: frozen parameters.
      top: the policy's top.
      prompts: token ids.
      prompt_ids: number per prompt that its random numbers are folded from.
      batch_size: prompts per batch. The last one is filled up with repeats, which are dropped.
      pad_id: any id.
      key: PRNG key.
      score: from `make_edge_score`.
      done: indices of prompts that were sampled before. They are yielded no more.

    Yields:
      For each prompt of a batch that is not done, its index in `prompts` and the responses to it.

    Raises:
      UserError: a log-prob or score is not a finite number.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-(-len(prompts[i]) // LENGTH_STEP), i))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        if all(row in done for row in rows):
            continue
        filled = rows + rows[:1] * (batch_size - len(rows))
        needed = max(len(prompts[i]) for i in rows)
        length = -(-needed // LENGTH_STEP) * LENGTH_STEP
        if sample.longest_prompt is not None:  # padding must not ask for positions that no token needs
            length = max(needed, min(length, sample.longest_prompt))
        prompt, mask = right_padded([prompts[i] for i in filled], length, pad_id)
        ids = np.array([prompt_ids[i] for i in filled], np.int32)
        sampled = sample(trunk, top, *sharding.rows((prompt, mask, ids)), key)
        scores = None
        if score is not None:
            scores = np.float64(sharding.whole(score(trunk, sampled.sequences, sampled.edge)))
        responses = zip(rows, unpack(sampled, scores, len(rows)), strict=True)
        yield [(row, of_row) for row, of_row in responses if row not in done]
