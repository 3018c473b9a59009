"""From records to items of token ids, and from those to batches of few shapes, each a function of (seed, position).

Shape letters: B prompts, N responses of one prompt, P prompt length, R response length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rlhf_jax.data.records import Example, Preference
from rlhf_jax.data.tokenizer import Truncation, encode_pair, encode_prompt
from rlhf_jax.errors import UserError
from rlhf_jax.models.sequences import Sequences

if TYPE_CHECKING:
    import jax
    from transformers import PreTrainedTokenizerFast

# Batches are made of neighbours in length within a window of this many batches of the shuffled epoch.
_WINDOW = 32


class Item(NamedTuple):
    """Token ids of one prompt and of N responses to it, EOS included. Of a preference pair its margin, if known."""

    prompt: list[int]
    responses: list[list[int]]
    margin: float | None = None


@dataclass(frozen=True)
class Encoding:
    """Converts the texts of a stage to items.

    Attributes:
      tokenizer: of the model.
      max_prompt: tokens. A longer prompt is shortened as `truncation` says.
      max_response: tokens, EOS included. A longer response is never shortened.
      truncation: as in `encode_prompt`.
      separator: as in `encode_pair`.
      long_responses: what becomes of a record with a longer response: "drop" or "error".
    """

    tokenizer: PreTrainedTokenizerFast
    max_prompt: int
    max_response: int
    truncation: Truncation = "text"
    separator: str = " "
    long_responses: Literal["drop", "error"] = "drop"

    def item(self, record: Example | Preference, *responses: str) -> Item:
        """The item of a record's prompt and some responses."""
        pairs = [
            encode_pair(self.tokenizer, record.prompt, text, self.max_prompt, self.truncation, self.separator)
            for text in responses
        ]
        return Item(pairs[0][0], [response for _, response in pairs])

    def fitting(self, longest: np.ndarray, id_of: Callable[[int], str]) -> np.ndarray:
        """The indices of the records whose responses all fit.

        `longest`, `[records]` int, are the tokens of each record's longest response. `id_of` is a record's id by its
        index.

        Raises:
          UserError: a response is too long and that is an error, or all are too long.
        """
        fits = longest <= self.max_response
        if self.long_responses == "error" and not fits.all():
            first = int(np.argmin(fits))
            raise UserError(
                f"The record {id_of(first)!r} has a response of {longest[first]} tokens, expected at most "
                f"{self.max_response}, the largest response bucket."
            )
        if len(fits) and not fits.any():
            raise UserError(
                f"All {len(fits)} responses are longer than {self.max_response} tokens, expected some to fit."
            )
        return np.flatnonzero(fits)

    def keep(self, items: Sequence[Item], records: Sequence[Example | Preference]) -> tuple[list[Item], int]:
        """The items whose responses all fit, and the number of the others. Raises as `fitting`."""
        kept = self.fitting(lengths_of(items)[:, 1], lambda index: records[index].id)
        return [items[index] for index in kept], len(items) - len(kept)


@runtime_checkable
class Measured(Protocol):
    """Items whose lengths are known without reading them, as `lengths_of` gives them."""

    lengths: np.ndarray


def lengths_of(items: Sequence[Item]) -> np.ndarray:
    """`[items, 2]` int32: the tokens of each item's prompt and of the longest of its responses."""
    if isinstance(items, Measured):
        return items.lengths
    lengths = [(len(item.prompt), max(map(len, item.responses), default=0)) for item in items]
    return np.array(lengths, np.int32).reshape(-1, 2)


def from_prompts(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast, max_prompt: int, truncation: Truncation = "text"
) -> list[Item]:
    """Tokenises the prompts alone (N = 0), in order, for a rollout. See `encode_prompt`."""
    return [Item(encode_prompt(tokenizer, example.prompt, max_prompt, truncation), []) for example in examples]


def from_examples(encoding: Encoding, examples: Sequence[Example]) -> tuple[list[Item], int]:
    """Tokenises examples (N = 1), in order. Also returns the number dropped because the response is too long.

    Raises:
      UserError: a response has no token, a prompt cannot be shortened, or as `Encoding.keep`.
    """
    items = [encoding.item(example, example.response) for example in examples]
    for item, example in zip(items, examples, strict=True):
        if len(item.responses[0]) < 2:
            raise UserError(f"The example {example.id!r} has a response without a token, expected some before the EOS.")
    return encoding.keep(items, examples)


def from_preferences(encoding: Encoding, preferences: Sequence[Preference]) -> tuple[list[Item], int]:
    """Tokenises preference pairs (N = 2, the chosen response first), in order, with their margins.

    Also returns the number of pairs dropped because one of the responses is too long.

    Raises:
      UserError: the two responses of a pair are the same tokens, a prompt cannot be shortened, or as `Encoding.keep`.
    """
    items = []
    for pair in preferences:
        item = encoding.item(pair, pair.chosen, pair.rejected)._replace(margin=pair.margin)
        if item.responses[0] == item.responses[1]:
            raise UserError(f"The preference {pair.id!r} has the same tokens twice, expected two different responses.")
        items.append(item)
    return encoding.keep(items, preferences)


def collate(items: Sequence[Item], prompt_length: int, response_length: int, pad_id: int) -> Sequences:
    """Right-pads items of equal N into `Sequences` of numpy arrays: `[B, P]` and `[B, N, R]`, ids int32, masks bool.

    Raises:
      ValueError: an item is longer than the lengths given, or has another number of responses than the first.
    """
    samples = len(items[0].responses)
    if any(len(item.responses) != samples for item in items):
        raise ValueError(f"items have other numbers of responses than the first, {samples}")
    responses = [response for item in items for response in item.responses]
    prompt, prompt_mask = right_padded([item.prompt for item in items], prompt_length, pad_id)
    response, response_mask = right_padded(responses, response_length, pad_id)
    shape = (len(items), samples, response_length)
    return Sequences(prompt, prompt_mask, response.reshape(shape), response_mask.reshape(shape))


def right_padded(rows: Sequence[Sequence[int]], length: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows as `[rows, length]` int32, right-padded, and the bool mask of their tokens."""
    ids, mask = np.full((len(rows), length), pad_id, np.int32), np.zeros((len(rows), length), bool)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = True
    return ids, mask


def real_tokens(batch: Sequences) -> np.integer | jax.Array:
    """Number of tokens in a batch, prompts counted once and padding not at all."""
    return batch.prompt_mask.sum() + batch.response_mask.sum()


class Buckets(NamedTuple):
    """The lengths that batches are padded to. Every pair of them is a shape that may be compiled."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    def of(self, lengths: np.ndarray) -> np.ndarray:
        """`[items, 2]`: the smallest prompt and response length that each item fits in, by its own lengths.

        Raises:
          UserError: an item is longer than the largest bucket.
        """
        prompts, responses = lengths.T
        fitted = (_smallest(self.prompt, prompts, "prompt"), _smallest(self.response, responses, "response"))
        return np.stack(fitted, axis=1)

    def fit(self, items: Sequence[Item]) -> tuple[int, int]:
        """The smallest prompt and response length that all items fit in. Raises as `of`."""
        prompt, response = self.of(lengths_of(items)).max(axis=0).tolist()
        return prompt, response


def _smallest(buckets: tuple[int, ...], lengths: np.ndarray, what: str) -> np.ndarray:
    ordered, longest = np.sort(buckets), lengths.max(initial=0)
    if longest > ordered[-1]:
        raise UserError(f"A {what} has {longest} tokens, expected at most {ordered[-1]}, the largest {what} bucket.")
    return ordered[np.searchsorted(ordered, lengths)]


class Batches:
    """Training batches without end, each a pure function of the seed and the position.

    An epoch is a fresh shuffle. Within windows of 32 batches it is sorted by length and cut into batches, and then the
    batches are shuffled. So a batch contains neighbours in length, and its position in the epoch does not depend on
    them. The examples left over when the batches are full sit this epoch out. Another shuffle leaves out others.
    """

    def __init__(
        self,
        items: Sequence[Item],
        batch_size: int,
        seed: int,
        buckets: Buckets,
        pad_id: int,
        own: np.ndarray | None = None,
    ) -> None:
        """Keeps the items and checks them.

        `own`, `[batch_size]` bool, are the rows of a batch that this host's devices hold, at least one (None: all). The
        others are not read. The same number of pads replaces them, so that every host has batches of the same shapes.

        Raises:
          UserError: there are fewer items than `batch_size`, or one is longer than the largest bucket.
        """
        assert own is None or own.shape == (batch_size,)
        if len(items) < batch_size:
            raise UserError(f"There are {len(items)} examples, expected at least one batch of {batch_size}.")
        self._items, self._batch_size, self._seed = items, batch_size, seed
        self._buckets, self._pad_id = buckets, pad_id
        self._own = np.ones(batch_size, bool) if own is None else own
        self._samples, self._lengths = len(items[0].responses), lengths_of(items)
        self._sort_by = buckets.of(self._lengths).T[::-1]  # the last row is the first key of a lexsort
        self._plans: dict[int, np.ndarray] = {}

    @property
    def fingerprint(self) -> str:
        """Digest of everything but the seed that the order depends on: hosts that share batches must have the same."""
        return f"{len(self._items)} items, {hashlib.sha256(self._lengths.tobytes()).hexdigest()[:12]}"

    @property
    def examples_per_epoch(self) -> int:
        """Examples that one epoch consumes, a multiple of the batch size."""
        return len(self._items) // self._batch_size * self._batch_size

    def at(self, position: int) -> Sequences:
        """The batch that starts at a position. See `items_at`."""
        return self.collate(self.items_at(position))

    def collate(self, items: Sequence[Item]) -> Sequences:
        """A batch of items, padded to the smallest buckets that they fit in."""
        return collate(items, *self._buckets.fit(items), self._pad_id)

    def items_at(self, position: int) -> list[Item]:
        """The items of the batch that starts at a position, row by row. Those of other hosts' rows are pads.

        A position is the examples consumed so far over all hosts and epochs, a multiple of the batch size.
        """
        epoch, start = divmod(position, self.examples_per_epoch)
        index, rest = divmod(start, self._batch_size)
        if rest:
            raise ValueError(f"the position {position} is no multiple of the batch size {self._batch_size}")
        rows = zip(self._plan(epoch)[index], self._own, strict=True)
        return [self._items[item] if own else self._pads(item) for item, own in rows]

    def _pads(self, item: int) -> Item:
        """An item as long as another one that is not read."""
        prompt, response = self._lengths[item].tolist()
        return Item([self._pad_id] * prompt, [[self._pad_id] * response] * self._samples)

    def _plan(self, epoch: int) -> np.ndarray:
        """`[batches, batch_size]` indices of items.

        The plans of two epochs are kept: batches are asked for in order, by threads of which some are in the next.
        """
        plan = self._plans.get(epoch)
        if plan is None:
            random = np.random.default_rng((self._seed, epoch))
            order = random.permutation(len(self._items))[: self.examples_per_epoch]
            window = _WINDOW * self._batch_size
            for start in range(0, len(order), window):
                part = order[start : start + window]
                order[start : start + window] = part[np.lexsort(self._sort_by[:, part])]
            plan = random.permutation(order.reshape(-1, self._batch_size))
            self._plans = {epoch: plan} | {e: p for e, p in self._plans.items() if abs(e - epoch) == 1}
        return plan


def in_order(items: Sequence[Item], batch_size: int, buckets: Buckets, pad_id: int) -> Iterator[tuple[Sequences, int]]:
    """Yields every item once, in order, in batches of a fixed size, with the number of their real rows.

    The last batch is filled up with rows of a one-token prompt and no response token, which change no sum over response
    tokens.
    """
    for start in range(0, len(items), batch_size):
        rows = list(items[start : start + batch_size])
        filler = Item([pad_id], [[] for _ in rows[0].responses])
        padded = rows + [filler] * (batch_size - len(rows))
        yield collate(padded, *buckets.fit(rows), pad_id), len(rows)
