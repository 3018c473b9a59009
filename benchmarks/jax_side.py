"""The benchmark's one side: this project's own programs, as its stages run them.

.venv/bin/python benchmarks/jax_side.py --case sft_frozen --dtype bfloat16 --repeats 3
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import workloads

from rlhf_jax.models import heads
from rlhf_jax.models.hf.presets import PRESETS
from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Model, Params
from rlhf_jax.parallel import sharding
from rlhf_jax.parallel.devices import cast
from rlhf_jax.parallel.jit import compile_count
from rlhf_jax.rl.ppo_config import Algorithm, Paper
from rlhf_jax.rl.ppo_step import PolicyState, make_evaluate_rollout, make_update
from rlhf_jax.sampling import rollouts
from rlhf_jax.stages import sft
from rlhf_jax.training import optimizer
from rlhf_jax.training.state import State
from rlhf_jax.training.train_step import make_train_step

ARCHITECTURE = PRESETS["HuggingFaceTB/SmolLM2-135M-Instruct"]
MESH = sharding.Mesh(data=1, fsdp=1, tensor=1)
FREEZE = workloads.FROZEN_LAYERS / ARCHITECTURE.layers
NEVER = -1  # an EOS id that is never sampled: every sample runs to its full length
ADAMW = optimizer.Config(learning_rate=1e-5, clip_norm=0.0)

# As in the torch side: none of them changes how long an iteration takes.
PPO = Algorithm(
    temperature=1.0,
    max_new_tokens=workloads.NEW_TOKENS,
    kl_coef=0.05,
    kl_estimator="k1",
    kl_in="reward",
    kl_target=0.0,
    kl_horizon=10_000,
    refresh_reference_every=0,
    score_scale=1.0,
    score_clip=0.0,
    length_penalty=0.0,
    missing_eos_penalty=0.0,
    whiten_rewards=False,
    gamma=1.0,
    gae_lambda=0.95,
    value_model="policy",
    value_start="zero",
    value_warmup_steps=0,
    num_ppo_epochs=workloads.PPO_EPOCHS,
    num_mini_batches=1,
    cliprange=0.2,
    cliprange_value=0.2,
    vf_coef=0.1,
    entropy_coef=0.0,
    target_kl=0.0,
    paper=Paper(whiten_microbatches=False, divide_by_cells=False, recompute_advantages=False),
)


def network(dtype: str, freeze: float) -> tuple[Model, Params, Params]:
    """A random model, its trunk in the compute dtype and its top in float32, placed as stages place what they load."""
    model = Model(ARCHITECTURE, jnp.dtype(dtype), freeze)
    trunk, top = model.split(sharding.spread(nn.meta.unbox(jax.jit(model.init)(jax.random.key(0)))))
    return model, cast(trunk, model.dtype), top


def random_prompts(rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(0).integers(ARCHITECTURE.vocabulary, size=(rows, length), dtype=np.int32)
    return tokens, np.ones((rows, length), bool)


def steady(step: Callable[[], Any]) -> Callable[[], Any]:
    """`step`, of which only the first call may compile: a compilation must not be taken for a slow step."""
    compiled = None

    def checked() -> Any:
        nonlocal compiled
        result = step()
        if compiled not in (None, compile_count()):
            sys.exit(f"a timed call compiled {compile_count() - compiled} programs, 0 were expected.")
        compiled = compile_count()
        return result

    return checked


def best_of_n(prompt_length: int, dtype: str) -> Callable[[], Any]:
    model, trunk, top = network(dtype, FREEZE)
    prompt, mask = random_prompts(1, prompt_length)
    sample = rollouts.make_sample(
        model,
        samples=workloads.BON_SAMPLES,
        max_new_tokens=workloads.NEW_TOKENS,
        temperature=workloads.BON_TEMPERATURE,
        eos_id=NEVER,
    )
    key = jax.random.key(0)
    return lambda: jax.block_until_ready(sample(trunk, top, prompt, mask, np.zeros(1, np.int32), key))


def fine_tune(freeze: float, dtype: str) -> Callable[[], Any]:
    model, trunk, top = network(dtype, freeze)
    tokens, _ = random_prompts(workloads.SFT_BATCH, workloads.SFT_LENGTH)
    cut = workloads.SFT_LENGTH - workloads.SFT_RESPONSE if freeze else 1
    prompt, response = tokens[:, :cut], tokens[:, None, cut:]
    batch = sharding.rows(Sequences(prompt, np.ones(prompt.shape, bool), response, np.ones(response.shape, bool)))
    transform = optimizer.make_optimizer(ADAMW, 1)
    loss, unit = sft.LOSSES["batch"]
    train_step = make_train_step(partial(loss, model), unit, transform, workloads.SFT_BATCH)
    state = State.create(top, transform)

    def step() -> State:
        nonlocal state
        state, _ = jax.block_until_ready(train_step(state, trunk, batch))
        return state

    return step


def ppo_iteration(dtype: str) -> Callable[[], Any]:
    model, trunk, reference = network(dtype, FREEZE)
    width = ARCHITECTURE.width
    reward = heads.with_head(reference, "reward", heads.random_head(jax.random.key(1), width))
    top = heads.with_head(jax.tree.map(jnp.copy, reference), "value", jnp.zeros(width))
    transform = optimizer.make_optimizer(ADAMW, 1)
    state = PolicyState.create(top, transform, kl_coefficient=None, reference=None)
    sample = rollouts.make_sample(
        model, samples=1, max_new_tokens=workloads.NEW_TOKENS, temperature=PPO.temperature, eos_id=NEVER
    )
    evaluate = make_evaluate_rollout(model, PPO, workloads.PPO_PROMPTS)
    update = make_update(model, PPO, transform, workloads.PPO_PROMPTS)
    prompt, mask = random_prompts(workloads.PPO_PROMPTS, workloads.PPO_PROMPT_LENGTH)
    ids, key = np.arange(workloads.PPO_PROMPTS, dtype=np.int32), jax.random.key(0)

    def step() -> State:
        nonlocal state
        policy = {name: state.top[name] for name in reference}
        sampled = sample(trunk, policy, prompt, mask, ids, key)
        rollout, _ = evaluate(trunk, state.top, reference, reward, 0.0, 1.0, None, sampled)
        state, _ = jax.block_until_ready(update(state, trunk, rollout, key))
        return state

    return step


def make_step(case: str, dtype: str) -> Callable[[], Any]:
    cases = {
        "bon_128": lambda: best_of_n(128, dtype),
        "bon_512": lambda: best_of_n(512, dtype),
        "sft_frozen": lambda: fine_tune(FREEZE, dtype),
        "sft_full": lambda: fine_tune(0.0, dtype),
        "ppo": lambda: ppo_iteration(dtype),
    }
    return steady(cases[case]())


if __name__ == "__main__":
    with sharding.use(MESH):
        workloads.main(make_step, packages=("jax", "jaxlib", "flax"))
