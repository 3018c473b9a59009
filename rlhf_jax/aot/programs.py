"""The jitted programs of a stage at its largest buckets, made by the stage's own makers and fed with shapes.

This module is above the stages: it reads their configs and calls the functions that they call, in their order.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import assets
from rlhf_jax.aot import abstract
from rlhf_jax.errors import UserError
from rlhf_jax.models.architecture import Architecture
from rlhf_jax.models.flops import Costs, Rows, Work
from rlhf_jax.models.hf.families import read_config
from rlhf_jax.models.hf.presets import PRESETS
from rlhf_jax.models.hf.sources import open_source
from rlhf_jax.models.transformer import Model
from rlhf_jax.parallel import sharding
from rlhf_jax.parallel.devices import default_dtype
from rlhf_jax.rl.ppo_step import PolicyState, make_evaluate_rollout, make_update
from rlhf_jax.sampling import rollouts, samples_file
from rlhf_jax.sampling.score import make_raw_edge_score, make_score
from rlhf_jax.stages import best_of_n, generate, ppo, reward, sft
from rlhf_jax.training import optimizer
from rlhf_jax.training.state import State
from rlhf_jax.training.train_step import make_train_step

FREEZE = 0.8  # the study's, where a config leaves it to the run that it starts from
EOS = 2  # any id


@dataclasses.dataclass(frozen=True)
class Program:
    """One jitted program of a stage."""

    name: str  # e.g. "decode"
    function: Any  # has `lower`
    arguments: tuple[Any, ...]  # shapes
    beside: int  # bytes on each device that the stage holds while this runs and that are not among its arguments
    work: Work  # of one call
    calls: int  # in one step: an optimiser step, a rollout, a batch of prompts. 0 of an evaluation

    def lower(self) -> jax.stages.Lowered:
        """The program, traced."""
        return self.function.lower(*self.arguments)


def architecture(name: str) -> Architecture:
    """Architecture of a preset, of a folder's `config.json`, or of a `.gguf` file, without weights and downloads.

    Raises:
      UserError: none of these, or one that the network does not compute.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name).expanduser()
    if path.is_dir():
        return read_config(path)
    if path.suffix == ".gguf":
        return open_source(assets.resolve(name)).architecture
    raise UserError(
        f"config.model is {name!r}, expected a folder or a .gguf file that is here, or one of {', '.join(PRESETS)}"
    )


def dtype(name: str) -> jnp.dtype:
    """Dtype that `parallel.devices.default_dtype` returns on a TPU. Raises as it does."""
    return default_dtype("bfloat16" if name == "auto" else name)


def list_programs(config: Any) -> list[Program]:
    """All programs of a stage with this `Config`, on the mesh in use.

    Raises:
      UserError: the stage runs no network that can be checked, or as the stage itself before it starts.
    """
    makers: dict[type, Callable[[Any], list[Program]]] = {
        sft.Config: _sft,
        reward.Config: _reward,
        ppo.Config: _ppo,
        generate.Config: lambda config: _sampling(config.sampling),
        best_of_n.Config: lambda config: _sampling(config.sampling),
    }
    return makers[type(config)](config)


def _sft(config: sft.Config) -> list[Program]:
    sft.check(config)
    sft.check_rows(config)
    model = Model(architecture(config.model), dtype(config.dtype), config.freeze, blocks=config.blocks)
    trunk, top = abstract.parameters(model)
    transform = optimizer.make_optimizer(config.optimizer, config.steps)
    state = abstract.state(State, top, transform)
    loss, unit = sft.LOSSES[config.mean_over]
    step = make_train_step(partial(loss, model), unit, transform, config.microbatch)
    lengths = max(config.prompt_buckets), max(config.response_buckets)
    batch, few = (abstract.sequences(rows, 1, *lengths) for rows in (config.batch_size, config.microbatch))
    resident = trunk, state
    costs, rows = Costs(model), Rows(config.microbatch, 1, *lengths)
    forward = costs.supervised(rows, log_probs=True)
    gradient = costs.supervised_gradient(rows, log_probs=True)
    evaluate = sft.make_evaluate(model)
    programs = [
        _update(step, (state, trunk, batch), resident, costs, gradient, config.batch_size // config.microbatch),
        _program("evaluate", evaluate, (trunk, top, few), resident, forward, calls=0),
    ]
    if config.evaluate_samples:
        programs += _sample(sft.make_sampler(model, config, EOS), costs, rows, trunk, top, resident, calls=0)
    return programs


def _reward(config: reward.Config) -> list[Program]:
    reward.check(config)
    reward.check_rows(config)
    model = Model(architecture(config.model), dtype(config.dtype), FREEZE, blocks=config.blocks)
    trunk, top = abstract.parameters(model)
    top = abstract.with_head(model, top, "reward")
    transform = optimizer.make_optimizer(config.optimizer, config.steps)
    state = abstract.state(State, top, transform)
    loss = partial(reward.pair_loss, model, config.objective)
    step = make_train_step(loss, "pairs", transform, config.microbatch)
    lengths = max(config.prompt_buckets), max(config.response_buckets)
    batch, few = (abstract.sequences(rows, 2, *lengths) for rows in (config.batch_size, config.microbatch))
    margin = abstract.rows(jax.ShapeDtypeStruct((config.batch_size,), jnp.float32))
    resident, inputs = (trunk, state), (state, trunk, reward.Pairs(batch, margin))
    costs, rows = Costs(model), Rows(config.microbatch, 2, *lengths)
    forward = costs.supervised(rows, log_probs=False)
    gradient = costs.supervised_gradient(rows, log_probs=False)
    return [
        _update(step, inputs, resident, costs, gradient, config.batch_size // config.microbatch),
        _program("score", make_score(model), (trunk, top, few), resident, forward, calls=0),
    ]


def _ppo(config: ppo.Config) -> list[Program]:
    ppo.check(config)
    ppo.check_rows(config)
    settings = config.algorithm
    model = Model(architecture(config.model), dtype(config.dtype), FREEZE, blocks=config.blocks)
    trunk, policy = abstract.parameters(model)
    reference, judge = abstract.alike(policy), abstract.with_head(model, abstract.alike(policy), "reward")
    top = {**policy, "value": abstract.value(model, settings, policy)}
    transform = ppo.make_transform(config)
    number = abstract.whole(jax.ShapeDtypeStruct((), jnp.float32))
    coefficient = abstract.alike(number) if settings.kl_target else None
    refreshed = abstract.alike(policy) if settings.refresh_reference_every else None
    state = abstract.state(PolicyState, top, transform, kl_coefficient=coefficient, reference=refreshed)
    resident = trunk, reference, judge, state
    sample = ppo.make_sampler(model, config, EOS)
    costs, lengths = Costs(model), (config.num_generations, max(config.prompt_buckets), settings.max_new_tokens)
    count = config.prompts_per_rollout // config.sampling_batch
    rows = Rows(config.sampling_batch, *lengths)
    prefill, decode = _sample(sample, costs, rows, trunk, policy, resident, calls=count)
    batches = [abstract.rows(jax.eval_shape(sample.decode_at, *decode.arguments)) for _ in range(count)]
    earlier = abstract.device_bytes(batches[1:])
    programs = [dataclasses.replace(program, beside=program.beside + earlier) for program in (prefill, decode)]
    sampled = batches[0]
    if count > 1:
        programs.append(_program("join", sample.join, (batches,), resident, Work(), calls=1))
        sampled = abstract.rows(jax.eval_shape(sample.join, batches))
    evaluate = make_evaluate_rollout(model, settings, config.microbatch)
    inputs = (trunk, top, reference, judge, number, number, coefficient, sampled)
    rows = Rows(config.microbatch, *lengths)
    tops = 1 if settings.value_model == "policy" else 2
    forward = costs.rollout_scores(rows, tops=tops)
    programs.append(
        _program("score", evaluate, inputs, resident, forward * (config.prompts_per_rollout // rows.prompts), calls=1)
    )
    rollout = abstract.rows(jax.eval_shape(evaluate, *inputs)[0]).replace(edge=sampled.edge)
    update = make_update(model, settings, transform, config.microbatch)
    gradient = costs.rollout_gradient(rows, tops=tops)
    microbatches = config.prompts_per_rollout // settings.num_mini_batches // config.microbatch
    inputs, resident = (state, trunk, rollout, abstract.key()), (*resident, sampled)
    minibatches = settings.num_ppo_epochs * settings.num_mini_batches
    programs.append(_update(update, inputs, resident, costs, gradient, microbatches, minibatches))
    return programs


def _sampling(config: samples_file.Sampling) -> list[Program]:
    samples_file.check_rows(config)
    freeze = FREEZE if config.policy else 0.0
    model = Model(architecture(config.model), dtype(config.dtype), freeze, blocks=config.blocks)
    trunk, top = abstract.parameters(model)
    judge = abstract.with_head(model, abstract.alike(top), "reward") if config.reward else None
    resident = trunk, top, judge
    sample = samples_file.make_sampler(model, config, EOS)
    length = -(-config.max_prompt // rollouts.LENGTH_STEP) * rollouts.LENGTH_STEP
    costs, rows = Costs(model), Rows(config.batch_size, config.n, length, config.max_new_tokens)
    programs = _sample(sample, costs, rows, trunk, top, resident, calls=1)
    if config.reward:
        sampled = abstract.rows(jax.eval_shape(sample.decode_at, *programs[1].arguments))
        score = make_raw_edge_score(model)
        inputs = (trunk, judge, sampled.sequences, sampled.edge)
        programs.append(_program("score", score, inputs, resident, costs.top(rows), calls=1))
    return programs


def _sample(
    sample: rollouts.Sampler, costs: Costs, rows: Rows, trunk: Any, top: Any, resident: Any, calls: int
) -> list[Program]:
    batch = abstract.sequences(rows.prompts, 0, rows.prompt, 0)
    ids = abstract.rows(jax.ShapeDtypeStruct((rows.prompts,), jnp.int32))
    inputs = (trunk, top, batch.prompt, batch.prompt_mask)
    prefilled = jax.eval_shape(sample.prefill, *inputs)
    by_heads = (None, "batch", "kv_heads", None, None)
    layers = jax.tree.map(lambda leaf: sharding.abstract(leaf.shape, leaf.dtype, by_heads), prefilled.layers)
    prefilled = abstract.rows(prefilled.replace(layers=[])).replace(layers=layers)
    temperature = abstract.whole(jax.ShapeDtypeStruct((), jnp.float32))
    arguments = (*inputs, prefilled, ids, abstract.key(), temperature)
    return [
        _program("prefill", sample.prefill, inputs, resident, costs.prefill(rows._replace(samples=0)), calls),
        _program("decode", sample.decode_at, arguments, resident, costs.decode(rows), calls),
    ]


def _update(
    function: Any,
    arguments: tuple[Any, ...],
    resident: Any,
    costs: Costs,
    gradient: Work,
    microbatches: int,
    times: int = 1,
) -> Program:
    """`times` optimiser updates, each from the gradients of that number of microbatches."""
    work = (gradient * microbatches + costs.optimiser(microbatches)) * times
    return _program("update", function, arguments, resident, work, calls=1)


def _program(name: str, function: Any, arguments: tuple[Any, ...], resident: Any, work: Work, calls: int) -> Program:
    return Program(name, function, arguments, abstract.bytes_beside(resident, arguments), work, calls)
