"""One whole PPO step, from scores to the last Adam update, against float64 NumPy. Under every setting that has numbers.

The network is a linear one that answers to `Model`'s names, so that the gradients of the oracle are by hand.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.sequences import Sequences
from rlhf_jax.models.transformer import Edge
from rlhf_jax.rl.ppo_loss import start_value
from rlhf_jax.rl.ppo_step import PolicyState, make_evaluate_rollout, make_update
from rlhf_jax.sampling import sampler
from rlhf_jax.stages import ppo
from rlhf_jax.training import optimizer
from tests import numpy_ppo, tiny

B, N, R, D, E, V = 4, 2, 6, 5, 3, 7
MEAN, DEVIATION, MICROBATCH = 0.2, 1.3, 1
LENGTHS = np.array([[6, 3], [1, 6], [4, 2], [6, 5]])
OPTIMIZER = optimizer.Config(learning_rate=0.03, weight_decay=0.1, epsilon=1e-5, clip_norm=0.5)
QUIRKS = dict.fromkeys(("whiten_microbatches", "divide_by_cells", "recompute_advantages"), True)

# Each setting that changes a number is in one of these, beside others that it might be confused with.
CASES = {
    "as the configs have it": {},
    "KL in the loss by k2, adaptive; entropy; a value function from the reward model": {
        "kl_in": "loss",
        "kl_estimator": "k2",
        "kl_target": 0.4,
        "entropy_coef": 0.2,
        "value_model": "separate",
        "value_start": "reward",
    },
    "KL in the loss by k3; shaped and whitened rewards; plain returns; a random separate value function": {
        "kl_in": "loss",
        "kl_estimator": "k3",
        "score_scale": 1.7,
        "score_clip": 0.9,
        "length_penalty": 0.15,
        "whiten_rewards": True,
        "gamma": 1.0,
        "gae_lambda": 1.0,
        "value_model": "separate",
        "value_start": "random",
    },
    "the value function is warmed up; its head is the reward model's": {
        "kl_estimator": "k3",
        "value_start": "reward",
        "score_scale": 0.6,
        "value_warmup_steps": 1,
    },
    "the updates stop at a KL": {"target_kl": 0.06, "value_start": "random"},
    "the study's quirks": {**QUIRKS, "kl_estimator": "k2", "value_start": "random"},
}


class Linear:
    """A network of one matrix, with the methods of `Model` that PPO calls."""

    known_ids = V

    def top(self, params, sequences, edge):
        return edge.continuation @ params["layers"]["0"]["kernel"]

    def head_table(self, params):
        return params["embed"]["table"]


@dataclasses.dataclass
class Inputs:
    """Random arrays, the same for every case. Tops hold the matrix and a reward model a head too."""

    trunk: dict
    policy: dict
    reference: dict
    reward: dict
    sampled: sampler.Sampled


def top(matrix):
    return {"layers": {"0": {"kernel": jnp.asarray(matrix, jnp.float32)}}}


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    policy, reward = rng.normal(0, 0.6, (2, D, E))
    mask = np.arange(R) < LENGTHS[..., None]
    sequences = Sequences(
        prompt=np.zeros((B, 1), np.int32),
        prompt_mask=np.ones((B, 1), bool),
        response=rng.integers(0, V, (B, N, R)).astype(np.int32),
        response_mask=mask,
    )
    features = rng.normal(size=(B, N, R + 1, D)).astype(np.float32)
    return Inputs(
        trunk={"embed": {"table": jnp.asarray(rng.normal(size=(V, E)), jnp.float32)}},
        policy=top(policy),
        reference=top(policy + rng.normal(0, 0.15, (D, E))),
        reward={**top(reward), "reward": {"kernel": jnp.asarray(rng.normal(size=E), jnp.float32)}},
        sampled=sampler.Sampled(sequences, Edge(np.zeros((B, 1, D)), features), np.zeros((B, N, R)), LENGTHS < R),
    )


def weights(top, role="value"):
    """A top's arrays under the oracle's names, in float64."""
    found = {"policy": top["layers"]["0"]["kernel"]}
    if role in top:
        head = top[role]
        found |= {name: head[name] for name in ("kernel", "bias") if name in head}
        if "top" in head:
            found["value"] = head["top"]["layers"]["0"]["kernel"]
    return {name: np.asarray(array, np.float64) for name, array in found.items()}


def ours(settings, inputs, key):
    """Two programs of the stage: the rollout, the state after its updates, all metrics, the state's first top."""
    value = start_value(settings, inputs.policy, inputs.reward, MEAN, DEVIATION, jax.random.key(5))
    start = {**inputs.policy, "value": value}
    transform = optimizer.make_optimizer(OPTIMIZER, 100)
    state = PolicyState.create(
        jax.tree.map(jnp.copy, start),
        transform,
        kl_coefficient=jnp.float32(settings.kl_coef) if settings.kl_target else None,
        reference=None,
    )
    evaluate = make_evaluate_rollout(Linear(), settings, MICROBATCH)
    update = make_update(Linear(), settings, transform, MICROBATCH)
    rollout, metrics = evaluate(
        inputs.trunk, start, inputs.reference, inputs.reward, MEAN, DEVIATION, state.kl_coefficient, inputs.sampled
    )
    state, update_metrics = update(state, inputs.trunk, rollout, key)
    return rollout, state, metrics | update_metrics, start


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_a_step_equals_float64(inputs, changes):
    settings = tiny.algorithm(max_new_tokens=R, **changes)
    key = jax.random.key(3)
    rollout, state, metrics, start = ours(settings, inputs, key)

    sampled = numpy_ppo.Sampled(
        features=np.asarray(inputs.sampled.edge.continuation, np.float64),
        tokens=inputs.sampled.sequences.response,
        mask=inputs.sampled.sequences.response_mask,
        finished=inputs.sampled.finished,
        table=np.asarray(inputs.trunk["embed"]["table"], np.float64),
    )
    before, beta = weights(start), settings.kl_coef
    reference, reward = weights(inputs.reference), weights(inputs.reward, "reward")
    expected = numpy_ppo.evaluate(settings, before, reference, reward, MEAN, DEVIATION, beta, sampled)
    for name in ("rewards", "advantages", "returns"):
        np.testing.assert_allclose(getattr(rollout, name), expected[name], atol=1e-5, err_msg=name)
    assert float(metrics["objective"]) == pytest.approx(expected["objective"], abs=1e-5)
    raw = expected["raw"][sampled.mask]
    for name, number in {"mean": raw.mean(), "std": raw.std(), "max": raw.max(), "min": raw.min()}.items():
        assert float(metrics[f"advantage_{name}"]) == pytest.approx(number, abs=1e-5), name

    epochs = [jax.random.permutation(k, B) for k in jax.random.split(key, settings.num_ppo_epochs)]
    minibatches = np.concatenate(epochs).reshape(settings.num_ppo_epochs * settings.num_mini_batches, -1)
    adam = numpy_ppo.Adam(OPTIMIZER, before)
    after, logged = numpy_ppo.update(
        settings, before, beta, sampled, expected, adam, minibatches, MICROBATCH, settings.value_warmup_steps > 0
    )
    found = weights(state.top)
    assert found.keys() == after.keys()
    for name in after:
        np.testing.assert_allclose(found[name], after[name], atol=2e-5, err_msg=name)
    for name, number in logged.items():
        assert float(metrics[name]) == pytest.approx(number, rel=1e-4, abs=1e-5), name

    assert float(metrics["clip_fraction"]) > 0 or settings.value_warmup_steps, "or the clips are not tested"
    assert float(metrics["value_clip_fraction"]) > 0 or settings.target_kl
    moved = {name: bool(np.abs(after[name] - before[name]).max() > 0.01) for name in after}
    assert moved == {name: name != "policy" or not settings.value_warmup_steps for name in after}
    assert (1 < logged["updates"] < len(minibatches)) == (settings.target_kl > 0)
    if settings.kl_target:
        error = np.clip(expected["kl"] / settings.kl_target - 1, -0.2, 0.2)
        beta *= 1 + error * B * N / settings.kl_horizon
        assert float(state.kl_coefficient) == pytest.approx(beta, rel=1e-6) and beta != settings.kl_coef


def test_every_setting_with_a_number_is_in_a_case():
    """So that a setting that is added is added here too. Sampling has its own tests."""
    changed = set().union(*CASES.values())
    elsewhere = {"temperature", "top_k", "top_p", "max_new_tokens", "kl_horizon", "refresh_reference_every", "paper"}
    always = {"kl_coef", "missing_eos_penalty", "num_ppo_epochs", "num_mini_batches", "cliprange", "cliprange_value"}
    names = {field.name for field in dataclasses.fields(ppo.Algorithm)}
    assert names - elsewhere - always - {"vf_coef"} == changed - tiny.QUIRKS.keys()
    assert tiny.QUIRKS.keys() <= changed
