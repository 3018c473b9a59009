"""Stage `sft`: supervised fine-tuning on prompts and responses, the loss on response tokens only.

Reads `examples.jsonl`, writes a checkpoint of the top. The bottom blocks, embeddings and LM head are frozen by
`freeze` (the study: 0.8).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import Count, CountOrZero, FractionBelowOne, Lengths, may_change, may_grow
from rlhf_jax.data.batches import Batches, Buckets, Encoding, Item, in_order, real_tokens
from rlhf_jax.data.loading import load_splits, read_ahead
from rlhf_jax.data.records import Example
from rlhf_jax.data.tokenizer import decode, id_count, load_tokenizer
from rlhf_jax.metrics.text import rouge_l
from rlhf_jax.models import heads
from rlhf_jax.models.flops import Costs, Rows
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Model, Params, merge
from rlhf_jax.parallel import hosts, sharding
from rlhf_jax.parallel.jit import jit
from rlhf_jax.sampling import rollouts
from rlhf_jax.stages.inputs import Input
from rlhf_jax.training import losses, optimizer
from rlhf_jax.training.best_checkpoint import Selection
from rlhf_jax.training.config import TrainingConfig
from rlhf_jax.training.load import describe, load_base
from rlhf_jax.training.loop import Loop, is_finished
from rlhf_jax.training.state import State, check_divides
from rlhf_jax.training.step_timer import Clock
from rlhf_jax.training.train_step import make_train_step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class Config(TrainingConfig):
    """Supervised fine-tuning. `data` has the split train and any of `evaluate_splits`.

    Attributes:
      evaluate_splits: splits whose loss and perplexity are measured.
      evaluate_examples: maximum number of examples per split, the first ones.
      evaluate_samples: of those, how many are also sampled greedily and compared with the response by ROUGE-L.
      freeze: fraction of the blocks that is frozen with the embeddings and the LM head. 0 trains everything.
      response_buckets: ascending lengths (tokens) that responses are padded to. Responses are never shortened.
      long_responses: "drop" drops and counts examples with a too long response, "error" refuses them.
      batch_size: examples per optimiser step.
      mean_over: tokens that the loss is a mean over: those of the "batch", or first of each "microbatch", as in the
        study's code (docs/method.md, S2).
      steps: optimiser steps.
      selection: the best checkpoint, and the one that later stages load.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("checkpoints/*[0-9]", "metrics.jsonl", "timing.jsonl")
    RENAMED: ClassVar[dict[str, str]] = {"watch": "logging"}

    evaluate_splits: tuple[str, ...]
    evaluate_examples: Count
    evaluate_samples: CountOrZero
    freeze: FractionBelowOne
    response_buckets: Lengths
    long_responses: Literal["drop", "error"]
    batch_size: Count
    microbatch: Count = may_change(unless=lambda config: config.mean_over == "microbatch")
    mean_over: Literal["batch", "microbatch"]
    steps: Count = may_grow(when=lambda config: config.optimizer.schedule == "constant")
    selection: Selection


def response_loss(model: Model, trunk: Params, top: Params, batch: Sequences) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum of the cross-entropy over response tokens, and their number."""
    params = merge(trunk, top)
    hidden = model.top(params, batch, model.trunk(trunk, batch))
    log_probs, _ = heads.log_probs(model, params, batch, hidden)
    return losses.cross_entropy(log_probs, batch.response_mask), {"tokens": batch.response_mask.sum()}


def mean_response_loss(
    model: Model, trunk: Params, top: Params, batch: Sequences
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean over a microbatch's own response tokens, which weighs its tokens the more the fewer they are.

    So do trainers that average before they accumulate, the study's among them. `response_loss` is right.
    """
    total, sums = response_loss(model, trunk, top, batch)
    return total / sums["tokens"], {**sums, "microbatches": jnp.int32(1)}


# The loss by `mean_over`, and the metric that counts what it is a mean over.
LOSSES = {"batch": (response_loss, "tokens"), "microbatch": (mean_response_loss, "microbatches")}


def make_evaluate(model: Model) -> Callable[[Params, Params, Sequences], tuple[jax.Array, jax.Array]]:
    """`(trunk, top, batch) -> (summed loss, tokens)`, jitted."""

    def evaluate(trunk: Params, top: Params, batch: Sequences) -> tuple[jax.Array, jax.Array]:
        total, metrics = response_loss(model, trunk, top, batch)
        return total, metrics["tokens"]

    return jit(evaluate)


def evaluation_loss(evaluate: Callable[..., Any], trunk: Params, top: Params, batches: Sequence[Sequences]) -> float:
    """Mean loss per response token over batches."""
    sums = jax.device_get([evaluate(trunk, top, batch) for batch in batches])
    total, tokens = (np.float32(sum(parts)) for parts in zip(*sums, strict=True))
    return float(total / tokens)


def samples_rouge(
    sample: Callable[..., Any],
    tokenizer: PreTrainedTokenizerFast,
    trunk: Params,
    top: Params,
    items: Sequence[Item],
    batch_size: int,
) -> float:
    """Mean ROUGE-L of one greedy sample per prompt against the item's response, in [0, 1].

    `sample` is from `sampling.rollouts.make_sample` at temperature 0, N = 1.
    """
    batches = rollouts.sample_prompts(
        sample,
        trunk,
        top,
        [item.prompt for item in items],
        range(len(items)),
        batch_size=batch_size,
        pad_id=tokenizer.eos_token_id,
        key=jax.random.key(sharding.spread(0)),  # greedy: not used
    )
    outputs = {index: responses.tokens[0] for batch in batches for index, responses in batch}
    texts = [(decode(tokenizer, outputs[i]), decode(tokenizer, item.responses[0])) for i, item in enumerate(items)]
    return float(np.mean([rouge_l(output, reference) for output, reference in texts]))


def measured(config: Config) -> list[str]:
    """The names of what a run measures at each evaluation, in `metrics.jsonl`."""
    kinds = ("loss", "perplexity", "rouge_l") if config.evaluate_samples else ("loss", "perplexity")
    return [f"eval/{split}/{kind}" for split in config.evaluate_splits for kind in kinds]


def check(config: Config) -> None:
    """Raises UserError for a microbatch that does not divide the batch, and as its sections' own `check`."""
    check_divides("config.microbatch", config.microbatch, "config.batch_size", config.batch_size)
    config.selection.check(measured(config))
    config.logging.check()


def also_reads(config: Config) -> Iterator[Input]:
    """The splits of the data."""
    yield Input("data", "data", config.data, ("train", *config.evaluate_splits))


def run(config: Config, workdir: Path) -> None:
    """Fine-tunes and leaves `workdir/checkpoints`, `metrics.jsonl` and `timing.jsonl`. Resumes where it stopped.

    Raises:
      UserError: bad input, named. A loss that is not finite.
    """
    check(config)
    if is_finished(workdir, config.steps):
        return
    optimizer.warn_of_warmup(config.optimizer, config.steps)
    with sharding.use(config.mesh):
        train(config, workdir)


def make_sampler(model: Model, config: Config, eos_id: int) -> rollouts.Sampler:
    """Builds the greedy sampler of held-out prompts."""
    longest = max(config.response_buckets)
    return rollouts.make_sample(model, samples=1, max_new_tokens=longest, temperature=0.0, eos_id=eos_id)


def check_rows(config: Config) -> None:
    """Raises UserError unless the devices of the mesh in use share batches evenly."""
    sharding.check_rows(config, "batch_size", "microbatch")


def check_here(config: Config) -> None:
    """Raises UserError unless there are devices for the mesh, and they share batches evenly."""
    with sharding.on_hosts(config.mesh):
        check_rows(config)


def train(config: Config, workdir: Path) -> None:
    """The run itself, on the mesh in use."""
    check_rows(config)
    tokenizer = load_tokenizer(config.model)
    longest = max(config.prompt_buckets), max(config.response_buckets)
    encoding = Encoding(tokenizer, *longest, config.truncation, long_responses=config.long_responses)
    train, held_out = load_splits(
        config.data, Example, encoding, config.evaluate_splits, config.loading, config.evaluate_examples
    )
    buckets = Buckets(config.prompt_buckets, config.response_buckets)
    pad = tokenizer.eos_token_id
    batches = Batches(train, config.batch_size, config.seed, buckets, pad, sharding.own_rows(config.batch_size))
    hosts.agree("the data", {"the lengths of the training data": batches.fingerprint})
    evaluation = {
        split: [sharding.rows(batch) for batch, _ in in_order(items, config.microbatch, buckets, pad)]
        for split, items in held_out.items()
    }
    base = load_base(config.model, config.freeze, config.dtype, id_count(tokenizer), config.blocks)
    transform = optimizer.make_optimizer(config.optimizer, config.steps)
    loss, unit = LOSSES[config.mean_over]
    train_step = make_train_step(partial(loss, base.model), unit, transform, config.microbatch)
    evaluate = make_evaluate(base.model)
    sample = make_sampler(base.model, config, pad)
    state = State.create(base.top, transform)
    costs = Costs(base.model)

    def measure(top: Params) -> dict[str, float]:
        found = {}
        for split in config.evaluate_splits:
            mean = evaluation_loss(evaluate, base.trunk, top, evaluation[split])
            found |= {f"eval/{split}/loss": mean, f"eval/{split}/perplexity": float(np.exp(mean))}
            if chosen := held_out[split][: config.evaluate_samples]:
                rouge = samples_rouge(sample, tokenizer, base.trunk, top, chosen, config.microbatch)
                found[f"eval/{split}/rouge_l"] = rouge
        return found

    with Loop.of(config, workdir, config.steps, base.model.architecture.vocabulary, config.selection) as loop:
        state = loop.restore(state, base.fingerprint)
        waiting = read_ahead(batches.at, int(state.position), config.batch_size, config.loading.num_workers)
        clock = Clock()
        for step in loop.steps():
            batch = sharding.rows(clock.time("data", next, waiting))
            state, metrics = clock.time("update", train_step, state, base.trunk, batch)
            metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
            loop.require_finite(step, metrics, batch)
            if loop.is_due(step, config.evaluate_every):
                metrics |= clock.time("evaluate", measure, state.top)
            metrics["learning_rate"] = optimizer.learning_rate_at(config.optimizer, config.steps, step - 1)
            tokens = int(sharding.whole(real_tokens(batch)))
            flops = {"update": costs.supervised_gradient(Rows.of(batch), log_probs=True).flops}
            loop.log(step, metrics, clock.lap(tokens, flops), tokens, batch)
            loop.save_if_due(step, state, describe(base, "policy"))
