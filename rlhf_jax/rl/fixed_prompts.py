"""What the policy says to the same few prompts as training goes on: one file of `Samples` each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from rlhf_jax.data.batches import Buckets, Item, in_order
from rlhf_jax.data.records import Example, write
from rlhf_jax.rollouts import prompt_id, unpack
from rlhf_jax.sampler import Sampled
from rlhf_jax.sampling import answered
from rlhf_jax.sequences import Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Answer = Callable[[Sequences, np.ndarray], tuple[Sampled, jax.Array]]


class FixedPrompts:
    """Prompts in batches of a rollout's shape, so that answering them compiles nothing.

    Args:
      examples: with the prompts.
      items: the prompts' tokens, in the same order.
      tokenizer: of the policy.
      buckets: lengths (tokens) that prompts are padded to.
      batch_size: prompts of one batch.
    """

    def __init__(
        self,
        examples: list[Example],
        items: list[Item],
        tokenizer: PreTrainedTokenizerFast,
        buckets: Buckets,
        batch_size: int,
    ) -> None:
        self._examples, self._tokenizer = examples, tokenizer
        self._batches = list(in_order(items, batch_size, buckets, tokenizer.eos_token_id))

    def write(self, path: Path, answer: Answer, *, step: int, temperature: float, seed: int) -> dict[str, float]:
        """Writes a policy's responses, in the examples' order; the file is whole or not there.

        Args:
          path: of the file.
          answer: `(prompts, prompt ids) -> (Sampled, normalised scores [B, N])`.
          step: of training, for the records.
          temperature: of sampling, for the records.
          seed: the run's, for the records.

        Returns:
          The mean score of each split, as `eval/<split>/score`.
        """
        waiting, records = iter(self._examples), []
        for batch, rows in self._batches:
            examples = [next(waiting) for _ in range(rows)]
            ids = np.zeros(len(batch.prompt), np.int32)
            ids[:rows] = [prompt_id(example.id) for example in examples]
            sampled, scores = answer(batch, ids)
            source = {"model": "ppo", "checkpoint": f"step {step}", "temperature": temperature, "seed": seed}
            records += [
                answered(example, responses, self._tokenizer, selected=None, **source)
                for example, responses in zip(examples, unpack(sampled, np.asarray(scores), rows), strict=True)
            ]
        write(path, records)
        scores_of: dict[str, list[float]] = {}
        for record in records:
            scores_of.setdefault(record.split, []).extend(record.rewards)
        return {f"eval/{split}/score": float(np.mean(scores)) for split, scores in scores_of.items()}
