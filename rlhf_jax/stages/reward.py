"""Stage `reward`: a reward model from preferences, by the Bradley-Terry loss on pairs.

A pair is one prompt with two responses (N = 2, the chosen one first), so the prompt is read once for both. The score is
linear in the final state at the last real token. After training, the mean and deviation of the scores over a seeded
sample of training pairs are stored with the checkpoint. What uses the model sees normalised scores.
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import Count, Lengths, NonNegative, content_of, may_grow
from rlhf_jax.data.batches import Batches, Buckets, Encoding, Item, in_order, real_tokens
from rlhf_jax.data.loading import load_splits, read_ahead
from rlhf_jax.data.records import Preference
from rlhf_jax.data.tokenizer import id_count, load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_text
from rlhf_jax.metrics.reward_model import accuracy, accuracy_by_margin, calibration
from rlhf_jax.models import heads
from rlhf_jax.models.flops import Costs, Rows
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Model, Params
from rlhf_jax.parallel import hosts, sharding
from rlhf_jax.sampling.score import make_score, raw_scores, score_batches
from rlhf_jax.training import losses, optimizer
from rlhf_jax.training.best_checkpoint import Selection
from rlhf_jax.training.config import TrainingConfig
from rlhf_jax.training.load import describe, load_policy
from rlhf_jax.training.loop import Loop, is_finished
from rlhf_jax.training.state import State, check_divides
from rlhf_jax.training.step_timer import Clock
from rlhf_jax.training.train_step import make_train_step

MEASURED = ("accuracy", "accuracy_standard_error", "loss", "calibration_error")


@dataclasses.dataclass(frozen=True)
class Objective:
    """Additions to the Bradley-Terry loss. Each term is off at 0.

    Attributes:
      margin: times a pair's margin, by how much the chosen response's score is to exceed the other's before the loss
        is log 2 (Touvron et al., 2023, eq. 2). Every training pair must have one.
      center_rewards_coefficient: times the squared sum of a pair's scores, whose level the Bradley-Terry loss leaves
        open (Eisenstein et al., 2023).
    """

    RENAMED: ClassVar[dict[str, str]] = {"centring": "center_rewards_coefficient"}

    margin: NonNegative
    center_rewards_coefficient: NonNegative


@dataclasses.dataclass(frozen=True)
class Config(TrainingConfig):
    """Reward modelling. `data` has the split train and any of `evaluate_splits`.

    Attributes:
      policy: folder of the run whose top the reward model starts from (the study: SFT).
      evaluate_splits: splits whose accuracy and calibration are measured.
      response_buckets: ascending lengths (tokens) that responses are padded to. Responses are never shortened.
      separator: between prompt and response. Two spaces in the study (docs/method.md, M3).
      long_responses: "drop" drops and counts pairs with a too long response, "error" refuses them.
      batch_size: pairs per optimiser step.
      steps: optimiser steps.
      objective: additions to the Bradley-Terry loss.
      normalisation_pairs: training pairs that give the mean and standard deviation of the scores.
      selection: the best checkpoint, and the one that later stages load.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("checkpoints/*[0-9]", "metrics.jsonl", "timing.jsonl", "quality.json")
    RENAMED: ClassVar[dict[str, str]] = {"watch": "logging"}

    policy: str = content_of("run")
    evaluate_splits: tuple[str, ...]
    response_buckets: Lengths
    separator: str
    long_responses: Literal["drop", "error"]
    batch_size: Count
    steps: Count = may_grow(when=lambda config: config.optimizer.schedule == "constant")
    objective: Objective
    normalisation_pairs: Count
    selection: Selection


@flax.struct.dataclass
class Pairs:
    """A batch of preference pairs.

    Attributes:
      sequences: N = 2, the chosen response first.
      margin: `[B]` float32, by how much it is better. 0 where that is not known.
    """

    sequences: Sequences
    margin: np.ndarray | jax.Array


def pair_loss(
    model: Model, objective: Objective, trunk: Params, top: Params, pairs: Pairs
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum of the loss over pairs. A filler row, which has no response token, weighs nothing.

    The metrics are sums over pairs too, of the scores as they are, whatever the objective adds.
    """
    weight = pairs.sequences.response_mask.any(axis=(1, 2)).astype(jnp.float32)
    scores = raw_scores(model, trunk, top, pairs.sequences)
    loss, metrics = losses.pairwise_loss(scores, weight)
    if objective.margin:
        loss, _ = losses.pairwise_loss(scores.at[:, 0].add(-objective.margin * pairs.margin), weight)
    if objective.center_rewards_coefficient:
        loss += objective.center_rewards_coefficient * losses.centering_loss(scores, weight)
    return loss, {**metrics, "pairs": weight.sum()}


def evaluate(scores: np.ndarray, items: Sequence[Item]) -> tuple[dict[str, float], dict[str, Any]]:
    """Evaluates the raw scores `[pairs, 2]` of a split's items: scalars for the metrics, and tables for a report.

    Accuracy by margin is among the tables where every pair has a margin.
    """
    reliability = calibration(scores)
    scalars = {**accuracy(scores), "calibration_error": reliability["expected_calibration_error"]}
    margins = [item.margin for item in items]
    by_margin = {} if None in margins else {"accuracy_by_margin": accuracy_by_margin(scores, margins)}
    return scalars, {**scalars, "n": len(items), "calibration": reliability["bins"], **by_margin}


def pairs_at(batches: Batches, position: int) -> Pairs:
    """The batch of pairs that starts at a position."""
    items = batches.items_at(position)
    return Pairs(batches.collate(items), np.array([item.margin or 0.0 for item in items], np.float32))


def check_margins(config: Config, items: Sequence[Item]) -> None:
    """Raises UserError if the objective wants margins and a training pair has none."""
    if config.objective.margin and (unknown := sum(item.margin is None for item in items)):
        raise UserError(
            f"config.objective.margin is {config.objective.margin} and {unknown} training pairs of {config.data} have "
            "no margin, expected one in every pair"
        )


def check(config: Config) -> None:
    """Raises UserError for a microbatch that does not divide the batch, and as its sections' own `check`."""
    check_divides("config.microbatch", config.microbatch, "config.batch_size", config.batch_size)
    config.selection.check([f"eval/{split}/{name}" for split in config.evaluate_splits for name in MEASURED])
    config.logging.check()


def run(config: Config, workdir: Path) -> None:
    """Trains a reward model. Resumes where it stopped.

    It leaves `workdir/checkpoints`, `metrics.jsonl`, `timing.jsonl` and `quality.json`: of the checkpoint that later
    stages load, by split, the metrics, the bins of a reliability diagram and the accuracy by margin, as
    `metrics.reward_model` gives them.

    Raises:
      UserError: bad input, named. A loss that is not finite.
    """
    check(config)
    if is_finished(workdir, config.steps):
        return
    optimizer.warn_of_warmup(config.optimizer, config.steps)
    with sharding.use(config.mesh):
        train(config, workdir)


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
    encoding = Encoding(tokenizer, *longest, config.truncation, config.separator, config.long_responses)
    train, held_out = load_splits(config.data, Preference, encoding, config.evaluate_splits, config.loading)
    check_margins(config, train)
    buckets = Buckets(config.prompt_buckets, config.response_buckets)
    pad = tokenizer.eos_token_id
    batches = Batches(train, config.batch_size, config.seed, buckets, pad, sharding.own_rows(config.batch_size))
    hosts.agree("the data", {"the lengths of the training data": batches.fingerprint})
    evaluation = {split: list(in_order(items, config.microbatch, buckets, pad)) for split, items in held_out.items()}
    chosen = np.random.default_rng(config.seed).permutation(len(train))[: config.normalisation_pairs]
    normalisation = list(in_order([train[i] for i in chosen], config.microbatch, buckets, pad))

    base = load_policy(config.model, config.policy, config.dtype, id_count(tokenizer), config.blocks)
    head = heads.random_head(jax.random.key(config.seed), base.model.architecture.outer_width)
    transform = optimizer.make_optimizer(config.optimizer, config.steps)
    train_step = make_train_step(
        partial(pair_loss, base.model, config.objective), "pairs", transform, config.microbatch
    )
    score = make_score(base.model)
    state = State.create(heads.with_head(base.top, "reward", head), transform)
    costs = Costs(base.model)

    def measure(top: Params) -> tuple[dict[str, float], dict[str, Any]]:
        metrics, quality = {}, {}
        for split, rows in evaluation.items():
            scalars, quality[split] = evaluate(score_batches(score, base.trunk, top, rows), held_out[split])
            metrics |= {f"eval/{split}/{name}": value for name, value in scalars.items()}
        return metrics, quality

    with Loop.of(config, workdir, config.steps, base.model.architecture.vocabulary, config.selection) as loop:
        state = loop.restore(state, base.fingerprint)
        start, workers = int(state.position), config.loading.num_workers
        waiting = read_ahead(partial(pairs_at, batches), start, config.batch_size, workers)
        clock = Clock()
        for step in loop.steps():
            batch = sharding.rows(clock.time("data", next, waiting))
            state, metrics = clock.time("update", train_step, state, base.trunk, batch)
            metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
            loop.require_finite(step, metrics, batch)
            meta = describe(base, "reward")
            quality = {}
            if loop.is_due(step, config.evaluate_every):
                measured, quality = clock.time("evaluate", measure, state.top)
                metrics |= measured
            best = loop.is_best(metrics)
            if step == config.steps or best:
                scores = score_batches(score, base.trunk, state.top, normalisation)
                meta |= {"mean": float(scores.mean()), "std": float(scores.std())}
                metrics |= {"score_mean": meta["mean"], "score_std": meta["std"]}
            metrics["learning_rate"] = optimizer.learning_rate_at(config.optimizer, config.steps, step - 1)
            tokens = int(sharding.whole(real_tokens(batch.sequences)))
            flops = {"update": costs.supervised_gradient(Rows.of(batch.sequences), log_probs=False).flops}
            loop.log(step, metrics, clock.lap(tokens, flops), tokens, batch)
            if hosts.is_main() and quality and (config.selection.load == "latest" or best):
                write_text(workdir / "quality.json", json.dumps({"step": step, "splits": quality}, indent=2) + "\n")
            loop.save_if_due(step, state, meta)
