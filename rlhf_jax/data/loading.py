"""Input of a training stage: the items of its splits, and its batches, read ahead of the steps."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rlhf_jax.config import CountOrZero, may_change
from rlhf_jax.data import tokens
from rlhf_jax.data.batches import Encoding, Item, from_examples, from_preferences, from_prompts
from rlhf_jax.data.records import Example, Preference, read
from rlhf_jax.data.remote import local
from rlhf_jax.errors import UserError

# Batches that are ready before they are wanted, and the threads that read them.
_AHEAD, _THREADS = 8, 2


@dataclass(frozen=True)
class Loading:
    """Settings of reading the training data.

    Attributes:
      num_workers: processes that read ahead. 0 for threads of this process.
      drop_shards: True to leave out shards of tokens that cannot be read. They are an error otherwise.
    """

    RENAMED: ClassVar[dict[str, str]] = {"workers": "num_workers"}

    num_workers: CountOrZero = may_change()
    drop_shards: bool


def load_splits(
    data: str,
    kind: type[Example] | type[Preference],
    encoding: Encoding,
    held_out: Sequence[str],
    loading: Loading,
    limit: int | None = None,
) -> tuple[Sequence[Item], dict[str, list[Item]]]:
    """The items of the split "train" and of held-out splits. Prints how many records of each were dropped.

    Args:
      data: a JSONL file of records, which are tokenised here. Or a folder that was prepared with tokens, whose
        training items are read on demand, or its address in a bucket.
      kind, encoding, loading: of the stage.
      held_out: names of splits.
      limit: number of records of each held-out split to use, the first ones. None is all.

    Raises:
      UserError: a file or a record is broken, a split is empty, or as `tokens.open_split` and `Encoding.fitting`.
    """
    path, name = local(data), kind.__name__.lower()
    if path.is_dir():

        def of_split(split: str, limit: int | None = None) -> tuple[Sequence[Item], int]:
            found = tokens.open_split(path, split, encoding, kind, loading.drop_shards)
            longest = found.lengths[:limit, 1]
            kept = encoding.fitting(longest, found.id)
            return found.take(kept), len(longest) - len(kept)
    else:
        records = read(path, kind)
        convert = from_examples if kind is Example else from_preferences

        def of_split(split: str, limit: int | None = None) -> tuple[Sequence[Item], int]:
            chosen = [record for record in records if record.split == split][:limit]
            if not chosen:
                raise UserError(f"{path} has no {name} of the split {split!r}")
            return convert(encoding, chosen)

    def counted(split: str, limit: int | None = None) -> Sequence[Item]:
        items, dropped = of_split(split, limit)
        print(f"{split}: {len(items)} {name}s, {dropped} dropped because a response is too long", flush=True)
        return items

    evaluation = {split: list(counted(split, limit)) for split in held_out}
    return counted("train"), evaluation


def load_prompts(data: str, encoding: Encoding, loading: Loading) -> Sequence[Item]:
    """The prompts of the split "train" alone (N = 0), of examples in a file or a folder as `load_splits` takes them.

    Raises:
      UserError: as `load_splits`.
    """
    path = local(data)
    if path.is_dir():
        return tokens.open_split(path, "train", encoding, Example, loading.drop_shards, responses=False)
    examples = [example for example in read(path, Example) if example.split == "train"]
    return from_prompts(examples, encoding.tokenizer, encoding.max_prompt, encoding.truncation)


def read_ahead[T](batch_at: Callable[[int], T], start: int, batch_size: int, num_workers: int) -> Iterator[T]:
    """The batches from position `start` on, without end, read by Grain while the steps before them run.

    The next batch depends on the position alone, never on the number of workers. `batch_at` gives the batch that starts
    at a position, as `Batches.at`.
    """
    import grain

    positions = grain.MapDataset.range(start, sys.maxsize, batch_size)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    batches = positions.map(batch_at).to_iter_dataset(options)
    if num_workers:
        workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=_AHEAD)
        batches = batches.mp_prefetch(workers)
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()  # ends the workers
