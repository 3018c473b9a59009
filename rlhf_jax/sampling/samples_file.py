"""From prompts in a file to `samples.jsonl`: what `generate` and `best_of_n` share.

The file grows batch by batch, so a run that stops loses at most one batch and the same command goes on.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import jax

from rlhf_jax.config import NOT_EMPTY, Count, CountOrZero, NonNegative, Seed, content_of, may_change
from rlhf_jax.data.records import Example, Samples, append, read
from rlhf_jax.data.remote import local
from rlhf_jax.data.tokenizer import decode, encode_prompt, id_count, load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.scan import Blocks
from rlhf_jax.models.transformer import Model
from rlhf_jax.parallel import hosts, sharding
from rlhf_jax.sampling import rollouts
from rlhf_jax.sampling.score import make_edge_score
from rlhf_jax.training.load import load_policy, load_reward
from rlhf_jax.training.metrics_log import Progress
from rlhf_jax.training.signals import stop_on_signal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of sampling.

    Attributes:
      model: base model, as `assets.resolve` takes it.
      policy: folder of the sft or ppo run to sample from, "" for the base model.
      reward: folder of a reward run whose normalised scores go into `rewards`, "" for none.
      data: `examples.jsonl` with the prompts, or a folder with it.
      prompts: number of prompts per split, the first ones. 0 is all.
      n: samples per prompt.
      temperature: of sampling. 0 is greedy.
      top_k: draws from the k likeliest tokens. 0 draws from all (the study's code: 50, docs/method.md, M11).
      max_new_tokens: R, EOS included.
      max_prompt: tokens. A longer prompt is shortened.
      truncation: the part that a too long prompt loses: "text", the end of its text field, or "left", its start but the
        BOS.
      batch_size: prompts per batch.
      dtype: of computation: "auto", "bfloat16" or "float32".
      mesh: devices that shard the batch, the parameters and the heads.
      blocks: how the network's blocks are stored, run and differentiated.
      seed: of the samples.
    """

    model: str = content_of("model")
    policy: str = content_of("run")
    reward: str = content_of("run")
    data: str = content_of("data")
    prompts: Annotated[dict[str, CountOrZero], NOT_EMPTY]
    n: Count
    temperature: NonNegative
    top_k: CountOrZero
    max_new_tokens: Count
    max_prompt: Count
    truncation: Literal["text", "left"]
    batch_size: Count = may_change()
    dtype: Literal["auto", "bfloat16", "float32"]
    mesh: sharding.Mesh = may_change()
    blocks: Blocks
    seed: Seed


def select_examples(path: str, prompts: dict[str, int]) -> list[Example]:
    """The first examples of each split, in the file's order within a split.

    Raises:
      UserError: a split has none.
    """
    examples = read(local(path), Example)
    chosen = []
    for split, count in prompts.items():
        of_split = [example for example in examples if example.split == split]
        if not of_split:
            raise UserError(f"{path} has no example of the split {split!r}")
        chosen += of_split[: count or None]
    return chosen


def answered(
    example: Example,
    responses: rollouts.Responses,
    tokenizer: PreTrainedTokenizerFast,
    *,
    selected: int | None,
    model: str,
    checkpoint: str,
    temperature: float,
    seed: int,
    kl_k1: list[float] | None = None,
    kl_k3: list[float] | None = None,
) -> Samples:
    """The record of an example's prompt and its responses. The keyword arguments are fields of the record."""
    return Samples(
        id=example.id,
        split=example.split,
        prompt=example.prompt,
        reference=example.response,
        outputs=[decode(tokenizer, tokens) for tokens in responses.tokens],
        rewards=responses.scores,
        finish=["eos" if finished else "length" for finished in responses.finished],
        selected=selected,
        model=model,
        checkpoint=checkpoint,
        temperature=temperature,
        n=len(responses.tokens),
        seed=seed,
        kl_k1=kl_k1,
        kl_k3=kl_k3,
    )


def sample_file(config: Sampling, workdir: Path, name: str, select: Callable[[list[float]], int] | None = None) -> None:
    """Samples what is missing in `workdir/samples.jsonl`.

    Args:
      config: what to sample.
      workdir: the run's folder.
      name: what the records call the model.
      select: which of a prompt's outputs a selecting policy answers with, from their scores.

    Raises:
      UserError: bad input, named.
    """
    examples = select_examples(config.data, config.prompts)
    path = workdir / "samples.jsonl"
    done = {record.id for record in read(path, Samples, partial=True)}
    if any(example.id not in done for example in examples):
        with sharding.use(config.mesh):
            sample_missing(config, path, name, examples, done, select)


def portable(run: str, workdir: Path) -> str:
    """A run's name in the records of `workdir`: its path below the nearest folder that has both, such as their study's.

    So a study that is repeated or moved elsewhere has the same records.
    """
    if not run:
        return ""
    folder = os.path.abspath(run)
    common = os.path.commonpath([folder, os.path.abspath(workdir)])
    return run if common == os.sep else os.path.relpath(folder, common)


def make_sampler(model: Model, config: Sampling, eos_id: int) -> rollouts.Sampler:
    """Builds the sampler of one file."""
    return rollouts.make_sample(
        model,
        samples=config.n,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        eos_id=eos_id,
    )


def check_rows(config: Sampling) -> None:
    """Raises UserError unless the devices of the mesh in use share batches evenly."""
    sharding.check_rows(config, "batch_size", where="config.sampling")


def check_here(config: Sampling) -> None:
    """Raises UserError unless there are devices for the mesh, and they share batches evenly."""
    with sharding.on_hosts(config.mesh):
        check_rows(config)


def sample_missing(
    config: Sampling,
    path: Path,
    name: str,
    examples: list[Example],
    done: set[str],
    select: Callable[[list[float]], int] | None,
) -> None:
    """Samples the examples whose ids are not done, on the mesh in use."""
    check_rows(config)
    tokenizer = load_tokenizer(config.model)
    checkpoint = portable(config.policy, path.parent)
    base = load_policy(config.model, config.policy, config.dtype, id_count(tokenizer), config.blocks)
    score = make_edge_score(base.model, *load_reward(base, config.reward)) if config.reward else None
    sample = make_sampler(base.model, config, tokenizer.eos_token_id)
    batches = rollouts.sample_prompts(
        sample,
        base.trunk,
        base.top,
        [encode_prompt(tokenizer, example.prompt, config.max_prompt, config.truncation) for example in examples],
        [rollouts.prompt_id(example.id) for example in examples],
        batch_size=config.batch_size,
        pad_id=tokenizer.eos_token_id,
        key=jax.random.key(config.seed),
        score=score,
        done={index for index, example in enumerate(examples) if example.id in done},
    )
    with (
        stop_on_signal() as stop,
        Progress(len(examples), unit="prompt", description=name, initial=len(done)) as progress,
    ):
        for batch in batches:
            records = [
                answered(
                    examples[index],
                    responses,
                    tokenizer,
                    selected=None if select is None else select(responses.scores),
                    model=name,
                    checkpoint=checkpoint,
                    temperature=config.temperature,
                    seed=config.seed,
                )
                for index, responses in batch
            ]
            if hosts.is_main():
                append(path, records)
            progress.update(len(batch), sum(len(tokens) for _, responses in batch for tokens in responses.tokens))
            if stop.agreed():
                break
