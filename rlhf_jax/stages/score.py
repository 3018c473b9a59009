"""Stage `score`: a reward model rates the outputs of a `samples.jsonl`, whoever wrote them (the study's proxy reward).

The reward model may have another trunk or another tokenizer than the policy that sampled: it reads the texts, so they
are tokenised again and run through all of its blocks, at a cost that is said once.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from rlhf_jax.config import Count, content_of, may_change
from rlhf_jax.data.batches import Buckets, Item, in_order
from rlhf_jax.data.records import Samples, append, read
from rlhf_jax.data.tokenizer import encode_pair, id_count, load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_text
from rlhf_jax.metrics.reward_model import agreement_matrix
from rlhf_jax.metrics.statistics import mean_and_error
from rlhf_jax.models.scan import Blocks
from rlhf_jax.parallel import hosts, sharding
from rlhf_jax.parallel.devices import count_parameters
from rlhf_jax.sampling.score import make_score, score_batches
from rlhf_jax.training.checkpoint import load_meta
from rlhf_jax.training.load import load_base, load_reward
from rlhf_jax.training.metrics_log import Progress
from rlhf_jax.training.signals import stop_on_signal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LENGTH_STEP = 64  # prompts and responses are padded to multiples of this many tokens


@dataclasses.dataclass(frozen=True)
class Config:
    """Scoring of samples.

    Attributes:
      stage: "score".
      name: what the agreement matrix calls the reward model.
      samples: a `samples.jsonl`.
      model: the reward model's base model, as `assets.resolve` takes it.
      reward: folder of its run.
      compare_with: other reward models' `samples.jsonl` of the same outputs, by name, to measure agreement.
      max_prompt: tokens. A longer prompt is shortened.
      truncation: "text" or "left", as the reward model was trained.
      separator: between prompt and response, as the reward model was trained.
      batch_size: prompts of one batch.
      dtype: of computation: "auto", "bfloat16" or "float32".
      mesh: how many devices share the batch, the parameters and the heads.
      blocks: how the network's blocks are held, run and differentiated.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("samples.jsonl", "scores.json")
    RENAMED: ClassVar[dict[str, str]] = {"against": "compare_with"}

    stage: str
    name: str
    samples: str = content_of("data")
    model: str = content_of("model")
    reward: str = content_of("run")
    compare_with: dict[str, str] = content_of("data")
    max_prompt: Count
    truncation: Literal["text", "left"]
    separator: str
    batch_size: Count
    dtype: Literal["auto", "bfloat16", "float32"]
    mesh: sharding.Mesh = may_change()
    blocks: Blocks


def encode(config: Config, tokenizer: PreTrainedTokenizerFast, record: Samples) -> Item:
    """The item of a record's outputs. An output that the length limit cut has no EOS, as when it was sampled."""
    shape = config.max_prompt, config.truncation, config.separator
    pairs = [encode_pair(tokenizer, record.prompt, output, *shape) for output in record.outputs]
    cut = zip((response for _, response in pairs), record.finish, strict=True)
    return Item(pairs[0][0], [ids[:-1] if finish == "length" else ids for ids, finish in cut])


def rate(config: Config, records: Sequence[Samples], done: Collection[str]) -> Iterator[list[Samples]]:
    """Yields the records with normalised scores as their rewards, a batch at a time, neighbours in length together.

    Those whose ids are done are left out. Order and batches do not depend on them, so neither does any score.

    Raises:
      UserError: the reward model cannot be loaded or has no normalisation constants, or a score is not finite.
    """
    sharding.check_rows(config, "batch_size")
    tokenizer = load_tokenizer(config.model)
    items = [encode(config, tokenizer, record) for record in records]
    freeze = float(load_meta(Path(config.reward))["freeze"])
    base = load_base(config.model, freeze, config.dtype, id_count(tokenizer), config.blocks)
    top, mean, std = load_reward(base, config.reward)
    missing = [item for item, record in zip(items, records, strict=True) if record.id not in done]
    tokens = sum(len(item.prompt) + sum(map(len, item.responses)) for item in missing)
    print(
        f"{config.reward} reads {len(missing)} prompts with their outputs as text: {tokens:,} tokens through "
        f"{count_parameters((base.trunk, top)):,} parameters, about "
        f"{2 * tokens * count_parameters((base.trunk, top)):.1e} floating-point operations",
        flush=True,
    )
    longest = [(len(item.prompt), max(map(len, item.responses))) for item in items]
    buckets = Buckets(*(_lengths(max(lengths)) for lengths in zip(*longest, strict=True)))
    score = make_score(base.model)
    order = sorted(range(len(items)), key=lambda i: (records[i].n, buckets.fit([items[i]])))
    for _, group in itertools.groupby(order, key=lambda i: records[i].n):
        rows = list(group)
        for batch, real in in_order([items[i] for i in rows], config.batch_size, buckets, tokenizer.eos_token_id):
            these, rows = [records[i] for i in rows[:real]], rows[real:]
            if all(record.id in done for record in these):
                continue
            raw = score_batches(score, base.trunk, top, [(batch, real)])
            if not np.isfinite(raw).all():
                raise UserError(f"{config.reward} gives scores that are not finite; its weights are broken")
            rated = zip(these, ((raw - mean) / std).tolist(), strict=True)
            yield [dataclasses.replace(record, rewards=scores) for record, scores in rated if record.id not in done]


def _lengths(longest: int) -> tuple[int, ...]:
    return (*range(LENGTH_STEP, longest, LENGTH_STEP), longest)


def read_scores(path: str, samples: Sequence[Samples]) -> dict[str, list[float]]:
    """The rewards of the same outputs in another file, by prompt id.

    Raises:
      UserError: the file lacks a record, has other outputs for it, or has no rewards.
    """
    others = {record.id: record for record in read(path, Samples)}
    scores = {}
    for record in samples:
        other = others.get(record.id)
        if other is None or other.outputs != record.outputs or other.rewards is None:
            found = "no record" if other is None else "no rewards" if other.rewards is None else "other outputs"
            raise UserError(f"{path} has {found} of {record.id!r}, expected rewards of the outputs that are scored")
        scores[record.id] = other.rewards
    return scores


def summary(
    config: Config, rated: Sequence[Samples], others: Mapping[str, Mapping[str, list[float]]]
) -> dict[str, Any]:
    """The mean score by split, of what each record is judged by, and how far the reward models agree.

    Returns:
      `{"name", "splits"}`, a split being `mean_and_error` over its prompts, and, if there are other reward models,
      "agreement" as `reward_quality.agreement_matrix` gives it.
    """
    by_split: dict[str, list[float]] = {}
    for record in rated:
        by_split.setdefault(record.split, []).append(float(np.mean(record.answers(record.rewards))))
    means = {split: mean_and_error(values) for split, values in by_split.items()}
    own = {config.name: {record.id: record.rewards for record in rated}}
    matrix = {"agreement": agreement_matrix({**own, **others})} if others else {}
    return {"name": config.name, "splits": means, **matrix}


def check(config: Config) -> None:
    """Raises UserError if another reward model has this one's name."""
    if config.name in config.compare_with:
        raise UserError(f"config.compare_with has the reward model's own name {config.name!r}, expected another")


def check_here(config: Config) -> None:
    """Raises UserError unless there are devices for the mesh, and they share batches evenly."""
    with sharding.on_hosts(config.mesh):
        sharding.check_rows(config, "batch_size")


def run(config: Config, workdir: Path) -> None:
    """Writes `workdir/samples.jsonl`, the same records with this model's scores as rewards, and `workdir/scores.json`.

    A record's `selected` stays: it says what its policy answered. Resumes where it stopped.

    Raises:
      UserError: bad input, named.
    """
    check(config)
    samples = read(config.samples, Samples)
    if not samples:
        raise UserError(f"{config.samples} holds no samples, expected one line a prompt")
    others = {name: read_scores(path, samples) for name, path in config.compare_with.items()}
    path = workdir / "samples.jsonl"
    done = {record.id for record in read(path, Samples, partial=True)}
    if any(record.id not in done for record in samples):
        with (
            sharding.use(config.mesh),
            stop_on_signal() as stop,
            Progress(len(samples), unit="prompt", description=config.name, initial=len(done)) as progress,
        ):
            for batch in rate(config, samples, done):
                if hosts.is_main():
                    append(path, batch)
                progress.update(len(batch))
                if stop.agreed():
                    break
    if hosts.is_main():
        found = summary(config, read(path, Samples), others)
        write_text(workdir / "scores.json", json.dumps(found, indent=2) + "\n")
