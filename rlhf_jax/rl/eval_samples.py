"""Samples of the policy on fixed prompts during training, one file of `Samples` per evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from rlhf_jax.data.batches import Buckets, Item, in_order
from rlhf_jax.data.records import Example, Samples, write
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.parallel import hosts, sharding
from rlhf_jax.parallel.jit import jit
from rlhf_jax.rl.rollout import Rollout
from rlhf_jax.sampling.rollouts import prompt_id, unpack
from rlhf_jax.sampling.sampler import Sampled
from rlhf_jax.sampling.samples_file import answered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Answer = Callable[[Sequences, np.ndarray], tuple[Sampled, Rollout]]


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
        self._kl = jit(lambda rollout: (rollout.kl("k1"), rollout.kl("k3")))

    def write(self, path: Path, answer: Answer, *, step: int, temperature: float, seed: int) -> dict[str, float]:
        """Writes a policy's responses in the examples' order, as a complete file. Every host calls it, and the main one
        writes.

        Args:
          path: of the file.
          answer: `(prompts, prompt ids) -> (Sampled, Rollout)`. The KL is to the rollout's reference.
          step: of training, for the records.
          temperature: of sampling, for the records.
          seed: the run's, for the records.

        Returns:
          The mean score and KL per split, as `eval/<split>/score`, `.../kl_k1` and `.../kl_k3`.
        """
        waiting, records = iter(self._examples), []
        for batch, rows in self._batches:
            examples = [next(waiting) for _ in range(rows)]
            ids = np.zeros(len(batch.prompt), np.int32)
            ids[:rows] = [prompt_id(example.id) for example in examples]
            sampled, rollout = answer(batch, ids)
            scores, *kl = sharding.whole((rollout.scores, *self._kl(rollout)))
            kl_k1, kl_k3 = (estimates.tolist() for estimates in kl)
            responses = unpack(sampled, scores, rows)
            records += [
                answered(
                    example,
                    responses[row],
                    self._tokenizer,
                    selected=None,
                    model="ppo",
                    checkpoint=f"step {step}",
                    temperature=temperature,
                    seed=seed,
                    kl_k1=kl_k1[row],
                    kl_k3=kl_k3[row],
                )
                for row, example in enumerate(examples)
            ]
        if hosts.is_main():
            write(path, records)
        by_split: dict[str, list[Samples]] = {}
        for record in records:
            by_split.setdefault(record.split, []).append(record)
        return {f"eval/{split}/{name}": mean for split, of in by_split.items() for name, mean in _means(of).items()}


def _means(records: Sequence[Samples]) -> dict[str, float]:
    values = {"score": "rewards", "kl_k1": "kl_k1", "kl_k3": "kl_k3"}
    return {name: fmean(x for record in records for x in getattr(record, field)) for name, field in values.items()}
