"""Stage `ppo`: optimise the policy against the reward model by PPO (Schulman et al., 2017), with a KL penalty.

One step: sample responses; from the states that sampling kept at the trunk's edge compute old log-probs and values,
reference log-probs and scores; then a few epochs of clipped updates of the top. The trunk never runs again.

Each token's reward is `-beta * KL estimate`, and the last token's has the normalised score added. What can be chosen
is in `rl.settings`, every equation in docs/method.md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax import hosts, rollouts, sharding
from rlhf_jax.data.batches import Batches, Buckets, Encoding, from_prompts
from rlhf_jax.data.loading import Loading, load_prompts, read_ahead
from rlhf_jax.data.tokenizer import id_count, load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.depth import Blocks
from rlhf_jax.models.transformer import Model, Params
from rlhf_jax.rl import settings as choices
from rlhf_jax.rl.fixed_prompts import FixedPrompts
from rlhf_jax.rl.objective import Rollout, start_value
from rlhf_jax.rl.programs import PolicyState, make_evaluate_rollout, make_update
from rlhf_jax.rl.settings import Algorithm
from rlhf_jax.runs import describe, load_policy, load_reward
from rlhf_jax.sampler import Sampled
from rlhf_jax.sampling import select_examples
from rlhf_jax.sequences import Sequences
from rlhf_jax.training import optimizer
from rlhf_jax.training.clock import Clock
from rlhf_jax.training.loop import Loop, is_finished
from rlhf_jax.training.update import check_divides, check_not_negative, check_positive
from rlhf_jax.training.watch import Watch
from rlhf_jax.work import Costs, Rows


@dataclasses.dataclass(frozen=True)
class Config:
    """PPO.

    Attributes:
      stage: "ppo".
      model: base model, as `assets.resolve` takes it.
      policy: folder of the run that the policy starts from, which is also the reference (the study: SFT).
      reward: folder of the reward run.
      data: `examples.jsonl`, or a folder prepared with tokens; prompts of its train split.
      loading: how the training data are read.
      dtype: of computation: "auto", "bfloat16" or "float32".
      mesh: how many devices share the batch, the parameters and the heads.
      blocks: how the network's blocks are held, run and differentiated.
      prompt_buckets: lengths (tokens) that prompts are padded to; a longer prompt is shortened.
      truncation: what a too long prompt loses: "text", the end of its text field, or "left", its start but the BOS.
      prompts: of one rollout.
      sampling_batch: prompts sampled at one time, whose keys and values have to fit in memory together; divides
        `prompts`.
      samples: N, responses a prompt.
      microbatch: prompts of one forward and backward pass; divides a minibatch's prompts.
      steps: rollouts.
      algorithm: PPO's own settings.
      optimizer: AdamW and its schedule, counted in updates.
      evaluate_prompts: how many prompts of each split, the first ones, are answered as training goes on, `samples`
        times each, into `samples-<step>.jsonl`; {} for none.
      evaluate_every: steps between that.
      checkpoint_every: steps between checkpoints.
      stop_grace: seconds that a step may go on after SIGTERM; then the last complete checkpoint stands. 0 is no limit.
      watch: what the run shows of itself beside its files (docs/watching.md).
      seed: of prompts, samples, minibatches and a random value head.
    """

    stage: str
    model: str
    policy: str
    reward: str
    data: str
    loading: Loading
    dtype: str
    mesh: sharding.Mesh
    blocks: Blocks
    prompt_buckets: tuple[int, ...]
    truncation: Literal["text", "left"]
    prompts: int
    sampling_batch: int
    samples: int
    microbatch: int
    steps: int
    algorithm: Algorithm
    optimizer: optimizer.Config
    evaluate_prompts: dict[str, int]
    evaluate_every: int
    checkpoint_every: int
    stop_grace: float
    watch: Watch
    seed: int


def check(config: Config) -> None:
    """Raises UserError for sizes that are not positive or do not divide, and for what `rl.settings.check` refuses."""
    check_positive(config, "prompts", "samples", "steps", "evaluate_every", "checkpoint_every")
    check_not_negative(config, "stop_grace")
    check_divides("config.sampling_batch", config.sampling_batch, "config.prompts", config.prompts)
    config.watch.check()
    choices.check(config.algorithm, config.prompts * config.samples)
    minibatches = config.algorithm.minibatches
    if config.prompts % minibatches:
        raise UserError(
            f"config.algorithm.minibatches is {minibatches}, which does not divide {config.prompts} prompts"
        )
    check_divides("config.microbatch", config.microbatch, "a minibatch of prompts,", config.prompts // minibatches)


def run(config: Config, workdir: Path) -> None:
    """Optimises the policy and leaves `workdir/checkpoints`, `metrics.jsonl` and `timing.jsonl`; resumes.

    With `evaluate_prompts` there are `samples-<step>.jsonl` too, that of step 0 from before the first update.

    Raises:
      UserError: bad input, named; a reward model without normalisation constants.
    """
    check(config)
    if is_finished(workdir, config.steps):
        return
    with sharding.use(config.mesh):
        train(config, workdir)


def planned_updates(config: Config) -> int:
    """Updates of all minibatches, where the optimiser's schedule ends."""
    return config.steps * config.algorithm.epochs * config.algorithm.minibatches


def make_transform(config: Config) -> optax.GradientTransformation:
    """The optimiser."""
    return optimizer.make_optimizer(config.optimizer, planned_updates(config))


def make_sampler(model: Model, config: Config, eos_id: int) -> rollouts.Sampler:
    """What samples rollouts."""
    settings = config.algorithm
    return rollouts.make_sample(
        model,
        samples=config.samples,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        eos_id=eos_id,
    )


def check_rows(config: Config) -> None:
    """Raises UserError unless the devices of the mesh in use share batches evenly."""
    sharding.check_rows(config, "prompts", "sampling_batch", "microbatch")


def train(config: Config, workdir: Path) -> None:
    """The run itself, on the mesh in use."""
    check_rows(config)
    settings = config.algorithm
    tokenizer = load_tokenizer(config.model)
    buckets = Buckets(config.prompt_buckets, response=(1,))
    encoding = Encoding(tokenizer, max(config.prompt_buckets), max_response=0, truncation=config.truncation)
    items = load_prompts(config.data, encoding, config.loading)
    own = sharding.own_rows(config.prompts)  # also in sampling batches, which are every k-th prompt of a device
    batches = Batches(items, config.prompts, config.seed, buckets, tokenizer.eos_token_id, own)
    hosts.agree("the data", {"the lengths of the training data": batches.fingerprint})
    watched = select_examples(config.data, config.evaluate_prompts)
    watched_items = from_prompts(watched, tokenizer, max(config.prompt_buckets), config.truncation)
    fixed = FixedPrompts(watched, watched_items, tokenizer, buckets, config.prompts)

    base = load_policy(config.model, config.policy, config.dtype, id_count(tokenizer), config.blocks)
    model, trunk, start = base.model, base.trunk, base.top
    reward, mean, deviation = load_reward(base, config.reward)
    key = sharding.spread(jax.random.key(config.seed))
    value = start_value(settings, start, reward, mean, deviation, key)
    mean, deviation = sharding.spread((mean, deviation))
    transform = make_transform(config)
    sample = make_sampler(model, config, tokenizer.eos_token_id)
    evaluate = make_evaluate_rollout(model, settings, config.microbatch)
    update = make_update(model, settings, transform, config.microbatch)
    state = PolicyState.create(
        {**jax.tree.map(jnp.copy, start), "value": value},
        transform,
        kl_coefficient=jnp.float32(settings.kl_coefficient) if settings.kl_target else None,
        reference=jax.tree.map(jnp.copy, start) if settings.refresh_reference_every else None,
    )

    def policy_of(state: PolicyState) -> Params:
        return {name: state.top[name] for name in start}

    def respond(
        state: PolicyState, batch: Sequences, ids: np.ndarray, key: jax.Array, timed: rollouts.Timed = rollouts.untimed
    ) -> Sampled:
        inputs = (trunk, policy_of(state), batch.prompt, batch.prompt_mask, ids, key)
        return rollouts.sample_rollout(sample, *inputs, batch_size=config.sampling_batch, timed=timed)

    def score(state: PolicyState, sampled: Sampled, reference: Params) -> tuple[Rollout, dict[str, jax.Array]]:
        inputs = (trunk, state.top, reference, reward, mean, deviation, state.kl_coefficient, sampled)
        rollout, metrics = evaluate(*inputs)
        return rollout.replace(edge=sampled.edge), metrics  # a program's result is a copy, here of gigabytes

    watching_key = jax.random.fold_in(key, 0)

    def write_samples(state: PolicyState, step: int) -> dict[str, float]:
        def answer(batch: Sequences, ids: np.ndarray) -> tuple[Sampled, Rollout]:
            sampled = respond(state, batch, ids, watching_key)  # the same each time
            return sampled, score(state, sampled, start)[0]

        path = workdir / f"samples-{step}.jsonl"
        return fixed.write(path, answer, step=step, temperature=settings.temperature, seed=config.seed)

    costs, tops = Costs(model), 1 if settings.value_model == "policy" else 2
    with Loop(
        workdir,
        "ppo",
        config.steps,
        config.checkpoint_every,
        grace=config.stop_grace,
        watch=config.watch,
        vocabulary=base.model.architecture.vocabulary,
    ) as loop:
        state = loop.restore(state, base.fingerprint)
        if config.evaluate_prompts and int(state.step) == 0:
            write_samples(state, 0)
        waiting = read_ahead(batches.at, int(state.position), config.prompts, config.loading.workers)
        clock = Clock()
        for step in loop.steps():
            position = (step - 1) * config.prompts
            ids = np.arange(position, position + config.prompts, dtype=np.int32)
            batch = clock.time("data", next, waiting)
            sample_key, order_key = jax.random.split(jax.random.fold_in(key, step))
            sampled = respond(state, batch, ids, sample_key, clock.time)
            reference = start if state.reference is None else state.reference
            rollout, metrics = clock.time("score", score, state, sampled, reference)
            state, update_metrics = clock.time("update", update, state, trunk, rollout, order_key)
            if settings.refresh_reference_every and step % settings.refresh_reference_every == 0:
                state = state.replace(reference=jax.tree.map(jnp.copy, policy_of(state)))
            metrics = {name: float(value) for name, value in jax.device_get(metrics | update_metrics).items()}
            loop.require_finite(step, metrics, sampled.sequences)
            if config.evaluate_prompts and loop.is_due(step, config.evaluate_every):
                metrics |= clock.time("evaluate", write_samples, state, step)
            before = optimizer.updates_done(state.moments) - int(metrics["updates"])
            metrics["learning_rate"] = optimizer.learning_rate_at(config.optimizer, planned_updates(config), before)
            answered = sharding.whole(sampled.sequences.response_mask.sum(axis=(0, 1)))  # by token
            tokens = int(batch.prompt_mask.sum()) + int(answered.sum())
            epochs, longest = metrics["updates"] / settings.minibatches, np.count_nonzero(answered)
            flops = costs.rollout_flops(Rows.of(sampled.sequences), longest=longest, epochs=epochs, tops=tops)
            loop.log(step, metrics, clock.lap(tokens, flops), tokens, sampled.sequences)
            loop.save_if_due(step, state, describe(base, "policy"))
