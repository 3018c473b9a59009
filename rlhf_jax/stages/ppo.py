"""Stage `ppo`: optimise the policy against the reward model by PPO (Schulman et al., 2017), with a KL penalty.

One step: sample responses. Compute old log-probs and values, reference log-probs and scores from the hidden states
that sampling kept where the frozen trunk ends. Then make a few epochs of clipped updates of the top.

Each token's reward is `-beta * KL estimate`, and the last token's has the normalised score added. Every setting is in
`rl.ppo_config`, every equation in docs/method.md.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax.config import Count, CountOrZero, content_of, may_change, may_grow
from rlhf_jax.data.batches import Batches, Buckets, Encoding, from_prompts
from rlhf_jax.data.loading import load_prompts, read_ahead
from rlhf_jax.data.tokenizer import id_count, load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.flops import Costs, Rows
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Model, Params
from rlhf_jax.parallel import hosts, sharding
from rlhf_jax.rl import ppo_config as choices
from rlhf_jax.rl.eval_samples import FixedPrompts
from rlhf_jax.rl.ppo_config import Algorithm
from rlhf_jax.rl.ppo_loss import start_value
from rlhf_jax.rl.ppo_step import PolicyState, make_evaluate_rollout, make_update
from rlhf_jax.rl.rollout import Rollout
from rlhf_jax.sampling import rollouts
from rlhf_jax.sampling.sampler import Sampled
from rlhf_jax.sampling.samples_file import select_examples
from rlhf_jax.stages.inputs import Input
from rlhf_jax.training import optimizer
from rlhf_jax.training.config import TrainingConfig
from rlhf_jax.training.load import describe, load_policy, load_reward
from rlhf_jax.training.loop import Loop, is_finished
from rlhf_jax.training.state import check_divides
from rlhf_jax.training.step_timer import Clock


@dataclasses.dataclass(frozen=True)
class Config(TrainingConfig):
    """PPO. `data` has the prompts, in its split train. The optimiser's schedule counts updates.

    Attributes:
      policy: folder of the run that the policy starts from, which is also the reference (the study: SFT).
      reward: folder of the reward run.
      prompts_per_rollout: prompts of one rollout.
      num_generations: N, responses per prompt.
      num_rollouts: rollouts of the whole run. Each is one step.
      sampling_batch: prompts sampled at once, whose keys and values fit in memory together. Divides
        `prompts_per_rollout`.
      algorithm: PPO's own settings.
      evaluate_prompts: by split, how many prompts (the first ones) are sampled during training, into
        `samples-<step>.jsonl`. {} for none.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("checkpoints/*[0-9]", "metrics.jsonl", "timing.jsonl", "samples-*.jsonl")
    RENAMED: ClassVar[dict[str, str]] = {
        "watch": "logging",
        "prompts": "prompts_per_rollout",
        "samples": "num_generations",
        "steps": "num_rollouts",
    }

    policy: str = content_of("run")
    reward: str = content_of("run")
    prompts_per_rollout: Count
    num_generations: Count
    num_rollouts: Count = may_grow(when=lambda config: config.optimizer.schedule == "constant")
    sampling_batch: Count = may_change()
    microbatch: Count = may_change(unless=lambda config: config.algorithm.paper.whiten_microbatches)
    algorithm: Algorithm
    evaluate_prompts: dict[str, CountOrZero]


def check(config: Config) -> None:
    """Raises UserError for sizes that are not positive or do not divide, and for what `rl.ppo_config.check` refuses."""
    check_divides(
        "config.sampling_batch", config.sampling_batch, "config.prompts_per_rollout", config.prompts_per_rollout
    )
    config.logging.check()
    choices.check(config.algorithm, config.prompts_per_rollout * config.num_generations)
    minibatches = config.algorithm.num_mini_batches
    prompts = config.prompts_per_rollout
    if prompts % minibatches:
        raise UserError(f"config.algorithm.num_mini_batches is {minibatches}, which does not divide {prompts} prompts")
    check_divides("config.microbatch", config.microbatch, "a minibatch of prompts,", prompts // minibatches)


def also_reads(config: Config) -> Iterator[Input]:
    """The splits of the data."""
    yield Input("data", "data", config.data, ("train", *config.evaluate_prompts))


def run(config: Config, workdir: Path) -> None:
    """Optimises the policy and leaves `workdir/checkpoints`, `metrics.jsonl` and `timing.jsonl`. Resumes.

    With `evaluate_prompts` there are `samples-<step>.jsonl` too, that of step 0 from before the first update.

    Raises:
      UserError: bad input, named. A reward model without normalisation constants.
    """
    check(config)
    if is_finished(workdir, config.num_rollouts):
        return
    optimizer.warn_of_warmup(config.optimizer, planned_updates(config))
    if (value_alone := config.algorithm.value_warmup_steps) >= config.num_rollouts:
        print(
            f"warning: config.algorithm.value_warmup_steps is {value_alone} and the run has {config.num_rollouts} "
            "rollouts: the policy is never trained",
            flush=True,
        )
    with sharding.use(config.mesh):
        train(config, workdir)


def planned_updates(config: Config) -> int:
    """Updates of all minibatches, where the optimiser's schedule ends."""
    return config.num_rollouts * config.algorithm.num_ppo_epochs * config.algorithm.num_mini_batches


def make_transform(config: Config) -> optax.GradientTransformation:
    """The optimiser."""
    return optimizer.make_optimizer(config.optimizer, planned_updates(config))


def make_sampler(model: Model, config: Config, eos_id: int) -> rollouts.Sampler:
    """Builds the sampler of rollouts."""
    settings = config.algorithm
    return rollouts.make_sample(
        model,
        samples=config.num_generations,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        eos_id=eos_id,
    )


def check_rows(config: Config) -> None:
    """Raises UserError unless the devices of the mesh in use share batches evenly."""
    sharding.check_rows(config, "prompts_per_rollout", "sampling_batch", "microbatch")


def remove_samples_after(workdir: Path, step: int) -> None:
    """Removes `samples-<step>.jsonl` of steps that are to be made anew, perhaps without an evaluation."""
    for path in workdir.glob("samples-*.jsonl"):
        if int(path.stem.removeprefix("samples-")) > step:
            path.unlink()


def check_here(config: Config) -> None:
    """Raises UserError unless there are devices for the mesh, and they share batches evenly."""
    with sharding.on_hosts(config.mesh):
        check_rows(config)


def train(config: Config, workdir: Path) -> None:
    """The run itself, on the mesh in use."""
    check_rows(config)
    settings = config.algorithm
    tokenizer = load_tokenizer(config.model)
    buckets = Buckets(config.prompt_buckets, response=(1,))
    encoding = Encoding(tokenizer, max(config.prompt_buckets), max_response=0, truncation=config.truncation)
    items = load_prompts(config.data, encoding, config.loading)
    # A host's own rows in sampling batches too, which are every k-th prompt of a device.
    own = sharding.own_rows(config.prompts_per_rollout)
    batches = Batches(items, config.prompts_per_rollout, config.seed, buckets, tokenizer.eos_token_id, own)
    hosts.agree("the data", {"the lengths of the training data": batches.fingerprint})
    watched = select_examples(config.data, config.evaluate_prompts)
    watched_items = from_prompts(watched, tokenizer, max(config.prompt_buckets), config.truncation)
    fixed = FixedPrompts(watched, watched_items, tokenizer, buckets, config.prompts_per_rollout)

    base = load_policy(config.model, config.policy, config.dtype, id_count(tokenizer), config.blocks)
    model, trunk, start = base.model, base.trunk, base.top
    reward, mean, std = load_reward(base, config.reward)
    key = sharding.spread(jax.random.key(config.seed))
    value = start_value(settings, start, reward, mean, std, key)
    mean, std = sharding.spread((mean, std))
    transform = make_transform(config)
    sample = make_sampler(model, config, tokenizer.eos_token_id)
    evaluate = make_evaluate_rollout(model, settings, config.microbatch)
    update = make_update(model, settings, transform, config.microbatch)
    state = PolicyState.create(
        {**jax.tree.map(jnp.copy, start), "value": value},
        transform,
        kl_coefficient=jnp.float32(settings.kl_coef) if settings.kl_target else None,
        reference=jax.tree.map(jnp.copy, start) if settings.refresh_reference_every else None,
    )

    def policy_of(state: PolicyState) -> Params:
        return {name: state.top[name] for name in start}

    def respond(
        state: PolicyState, batch: Sequences, ids: np.ndarray, key: jax.Array, timed: rollouts.Timed = rollouts.untimed
    ) -> Sampled:
        return rollouts.sample_rollout(
            sample,
            trunk,
            policy_of(state),
            batch.prompt,
            batch.prompt_mask,
            ids,
            key,
            batch_size=config.sampling_batch,
            timed=timed,
        )

    def score(state: PolicyState, sampled: Sampled, reference: Params) -> tuple[Rollout, dict[str, jax.Array]]:
        rollout, metrics = evaluate(trunk, state.top, reference, reward, mean, std, state.kl_coefficient, sampled)
        return rollout.replace(edge=sampled.edge), metrics  # a program's result is a copy, here of gigabytes

    watching_key = jax.random.fold_in(key, 0)

    def write_samples(state: PolicyState, step: int) -> dict[str, float]:
        def answer(batch: Sequences, ids: np.ndarray) -> tuple[Sampled, Rollout]:
            sampled = respond(state, batch, ids, watching_key)  # the same each time
            return sampled, score(state, sampled, start)[0]

        path = workdir / f"samples-{step}.jsonl"
        return fixed.write(path, answer, step=step, temperature=settings.temperature, seed=config.seed)

    costs, tops = Costs(model), 1 if settings.value_model == "policy" else 2
    with Loop.of(config, workdir, config.num_rollouts, model.architecture.vocabulary) as loop:
        state = loop.restore(state, base.fingerprint)
        if hosts.is_main():
            remove_samples_after(workdir, int(state.step))
        if config.evaluate_prompts and int(state.step) == 0:
            write_samples(state, 0)
        waiting = read_ahead(batches.at, int(state.position), config.prompts_per_rollout, config.loading.num_workers)
        clock = Clock()
        for step in loop.steps():
            position = (step - 1) * config.prompts_per_rollout
            ids = np.arange(position, position + config.prompts_per_rollout, dtype=np.int32)
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
            epochs, longest = metrics["updates"] / settings.num_mini_batches, np.count_nonzero(answered)
            flops = costs.rollout_flops(Rows.of(sampled.sequences), longest=longest, epochs=epochs, tops=tops)
            loop.log(step, metrics, clock.lap(tokens, flops), tokens, sampled.sequences)
            loop.save_if_due(step, state, describe(base, "policy"))
