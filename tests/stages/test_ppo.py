"""PPO from sampling to update against NumPy in float64, and the ways in which published code got it wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.models.transformer import merge
from rlhf_jax.parallel.jit import jit
from rlhf_jax.rl.ppo_loss import start_value
from rlhf_jax.rl.ppo_step import PolicyState, make_evaluate_rollout, make_update
from rlhf_jax.sampling import rollouts
from rlhf_jax.stages import ppo
from rlhf_jax.training import optimizer
from rlhf_jax.training.checkpoint import load_top
from rlhf_jax.training.load import describe, load_base, load_policy
from tests import numpy_llama, tiny
from tests.golden_runs import assert_golden

EOS = 1
MEAN, DEVIATION = 0.4, 1.7
ALGORITHM = tiny.ALGORITHM
PROMPTS = tiny.sequences([7, 1, 4, 9], [[1]] * 4, prompt=9, response=1)
PROMPT_IDS = np.arange(4, dtype=np.int32)


@dataclasses.dataclass
class Setting:
    """A policy with a value head and a reward model on one trunk, what it sampled, and the program that scores it."""

    model: object
    trunk: dict
    top: dict
    reward: dict
    sampled: object
    evaluate: object

    @property
    def reference(self):
        return {name: part for name, part in self.top.items() if name != "value"}

    def rollout(self):
        """`(Rollout, metrics)` of the policy that sampled, against itself."""
        return self.evaluate(self.trunk, self.top, self.reference, self.reward, MEAN, DEVIATION, None, self.sampled)


@pytest.fixture(scope="module")
def setting():
    model, params = tiny.network(layers=2)
    table = params["embed"]["table"]
    params["embed"]["table"] = table.at[EOS].set(-4.0 * table[EOS])  # some responses end, some are cut
    trunk, top = model.split(params)
    sample = rollouts.make_sample(model, samples=2, max_new_tokens=8, temperature=ALGORITHM.temperature, eos_id=EOS)
    sampled = sample(trunk, top, PROMPTS.prompt, PROMPTS.prompt_mask, PROMPT_IDS, jax.random.key(2))
    return Setting(
        model=model,
        trunk=trunk,
        top=tiny.with_role(top, "value"),
        reward=tiny.with_role(tiny.nudged(top, 0.05, seed=3), "reward"),
        sampled=sampled,
        evaluate=make_evaluate_rollout(model, ALGORITHM, microbatch=2),
    )


def updated(setting, rollout, learning_rate=0.05, microbatch=2):
    """`(state, metrics)` after a first step, with a fixed coefficient and reference. The donated top is a copy."""
    transform = optax.sgd(learning_rate)
    state = PolicyState.create(jax.tree.map(jnp.copy, setting.top), transform, kl_coefficient=None, reference=None)
    return make_update(setting.model, ALGORITHM, transform, microbatch)(
        state, setting.trunk, rollout, jax.random.key(0)
    )


def by_the_oracle(setting, tmp_path, top, head=None):
    """`[4, 2, 8]` log-probs of the sampled tokens, states before each token dotted with a head, and scores `[4, 2]`."""
    model, sequences = setting.model, jax.tree.map(np.asarray, setting.sampled.sequences)
    tensors = numpy_llama.tensors_of(tmp_path, model, merge(setting.trunk, top))
    log_probs, before, after = np.zeros((4, 2, 8)), np.zeros((4, 2, 8)), np.zeros((4, 2))
    kernel = np.zeros(32) if head is None else np.asarray(top[head]["kernel"], np.float64)
    for row, n in np.ndindex(4, 2):
        ids, length = tiny.ids(sequences, row, n), int(sequences.response_mask[row, n].sum())
        states = numpy_llama.hidden_states(tensors, model.architecture, ids) @ kernel
        log_probs[row, n, :length] = numpy_llama.response_log_probs(
            tensors, model.architecture, ids, length, ALGORITHM.temperature
        )
        before[row, n, :length], after[row, n] = states[-length - 1 : -1], states[-1]
    return log_probs, before, after


def test_the_rollout_is_worth_testing(setting):
    """Responses that ended and that were cut, and one of a single token."""
    lengths = np.asarray(setting.sampled.sequences.response_mask.sum(axis=-1))
    assert {1, 8} <= set(lengths.ravel().tolist())
    assert bool(setting.sampled.finished.any()) and not bool(setting.sampled.finished.all())


def test_a_rollout_sampled_in_batches_is_the_same(setting):
    """Row for row, and what later steps start from to rounding. Fillers are fed until the last mate has ended."""
    sample = rollouts.make_sample(setting.model, samples=2, max_new_tokens=8, temperature=0.7, eos_id=EOS)
    inputs = (setting.trunk, setting.top, PROMPTS.prompt, PROMPTS.prompt_mask, PROMPT_IDS, jax.random.key(2))
    phases = []

    def timed(phase, function, *arguments):
        phases.append(phase)
        return function(*arguments)

    sampled = rollouts.sample_rollout(sample, *inputs, batch_size=2, timed=timed)
    assert phases == ["prefill", "decode"] * 2 + ["decode"]
    tiny.assert_same(sampled.sequences, setting.sampled.sequences)
    tiny.assert_same(sampled.finished, setting.sampled.finished)
    np.testing.assert_allclose(sampled.log_probs, setting.sampled.log_probs, atol=1e-5)
    np.testing.assert_allclose(sampled.edge.context, setting.sampled.edge.context, atol=1e-5)
    fed = np.asarray(sampled.sequences.continuation()[1])
    states = (np.asarray(x.edge.continuation)[fed] for x in (sampled, setting.sampled))
    np.testing.assert_allclose(*states, atol=1e-5)


def test_a_run_may_go_on_with_another_sampling_batch(config, finished, tmp_path):
    """Sampled prompt by prompt, it writes what the run in one batch did."""
    ppo.run(dataclasses.replace(config, sampling_batch=1, num_rollouts=1, evaluate_prompts={}), tmp_path)
    assert_close(tiny.logged(tmp_path)[0], tiny.logged(finished)[0])


def assert_close(ours, whole):
    for name, value in ours.items():
        assert value == pytest.approx(whole[name], rel=1e-3, abs=1e-5), name


def test_the_first_minibatch_has_ratio_one_and_step_zero_no_divergence(setting):
    """Invariant 1: by the update's own function at its own microbatch."""
    rollout, metrics = setting.rollout()
    for name in ("kl_k1", "kl_k3"):
        assert float(metrics[name]) == pytest.approx(0.0, abs=1e-7)
    state, metrics = updated(setting, rollout)
    assert float(metrics["first_ratio_error"]) <= 1e-6
    assert abs(float(metrics["first_kl"])) <= 1e-7
    # Invariant 8: the old log-probs stay, so the ratio moves and the clip acts as the epochs go on.
    assert float(metrics["ratio_max"]) > 1.2 and float(metrics["ratio_min"]) < 0.8
    assert float(metrics["clip_fraction"]) > 0
    assert float(metrics["approximate_kl"]) > 1e-4
    assert (int(state.step), int(state.position)) == (1, 4)


def test_the_update_does_not_depend_on_the_microbatch(setting):
    """Invariant 6: minibatches of two prompts, each in one pass or in two, with unequal numbers of tokens."""
    rollout, _ = setting.rollout()
    tops = [updated(setting, rollout, 0.01, microbatch)[0].top for microbatch in (2, 1)]
    for a, b, start in zip(*map(jax.tree.leaves, (*tops, setting.top)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 + 1e-3 * float(jnp.abs(a - start).max()))


def test_log_probs_values_and_scores_are_those_of_whole_networks(setting, tmp_path):
    """Invariants 2 and 12: each role run whole by the oracle, for ended, cut and one-token responses."""
    rollout, metrics = setting.rollout()
    log_probs, values, _ = by_the_oracle(setting, tmp_path, setting.top, "value")
    _, _, scores = by_the_oracle(setting, tmp_path, setting.reward, "reward")
    mask = np.asarray(setting.sampled.sequences.response_mask)
    np.testing.assert_allclose(np.where(mask, rollout.log_probs, 0), log_probs, atol=5e-4)
    np.testing.assert_allclose(np.where(mask, rollout.values, 0), values, atol=1e-4)
    assert float(metrics["score"]) == pytest.approx(((scores - MEAN) / DEVIATION).mean(), abs=1e-4)
    assert float(metrics["sampler_difference"]) < 1e-5


def test_the_reference_and_the_trunk_stay(setting):
    """Invariant 11: logits of the reference before and after an update, bit for bit."""
    rollout, _ = setting.rollout()
    reference = setting.reference
    logits = jit(setting.model.logits)
    before = logits(merge(setting.trunk, reference), PROMPTS.prompt, PROMPTS.prompt_mask)
    state, _ = updated(setting, rollout)
    tiny.assert_same(logits(merge(setting.trunk, reference), PROMPTS.prompt, PROMPTS.prompt_mask), before)
    assert set(state.top) == set(setting.top)
    tiny.assert_all_moved(state.top, setting.top)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Four rollouts of four prompts and two samples, from an SFT run's top and against a reward run's."""
    folder = tmp_path_factory.mktemp("inputs")
    model = tiny.write_model(folder / "model")
    base = load_base(model, tiny.FREEZE, "float32")
    reward = tiny.with_role(tiny.nudged(base.top, 0.05), "reward")
    meta = {**describe(base, "reward"), "mean": MEAN, "std": DEVIATION}
    return ppo.Config(
        stage="ppo",
        model=model,
        policy=tiny.write_run(folder / "sft", tiny.nudged(base.top, 0.01), describe(base, "policy")),
        reward=tiny.write_run(folder / "reward", reward, meta),
        data=tiny.write_data(folder),
        prompts_per_rollout=4,
        sampling_batch=4,
        num_generations=2,
        microbatch=2,
        num_rollouts=4,
        algorithm=ALGORITHM,
        optimizer=optimizer.Config(learning_rate=1e-3),
        evaluate_prompts={"validation": 3, "id_test": 4},
        evaluate_every=3,
        checkpoint_every=2,
        **tiny.TRAINING,
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ppo")
    ppo.run(config, workdir)
    return workdir


def test_golden_run(finished):
    assert_golden("ppo", tiny.logged(finished))


def test_a_run_starts_on_its_reference_and_leaves_it(finished):
    """Invariant 1 in every step, and KL 0 in the first."""
    lines = tiny.logged(finished)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["kl_k1"] == pytest.approx(0.0, abs=1e-7)
    assert lines[0]["kl_k3"] == pytest.approx(0.0, abs=1e-7)
    assert lines[3]["kl_k3"] > 1e-4
    for line in lines:
        assert line["first_ratio_error"] <= 1e-6
        assert abs(line["first_kl"]) <= 1e-7
        assert line["sampler_difference"] < 1e-5
        assert line["ratio_min"] < 1.0 < line["ratio_max"]
    assert lines[0]["explained_variance"] == pytest.approx(0.0, abs=1e-3)  # the value head starts at zero


def test_nothing_is_compiled_after_the_first_step(finished):
    """Invariant 14."""
    timing = tiny.logged(finished, "timing")
    assert len({line["programs"] for line in timing[1:]}) == 1
    phases = {f"{name}_seconds" for name in ("data", "prefill", "decode", "score", "update", "host")}
    for line in timing:
        assert phases | {"seconds", "tokens_per_second"} <= set(line)
        assert line["seconds"] == pytest.approx(sum(line.get(name, 0) for name in (*phases, "evaluate_seconds")))


def test_the_run_that_it_started_from_is_as_it_was_and_the_new_top_fits_its_trunk(finished, config):
    """Invariant 11: a policy with a value head beside it, on the trunk of the SFT run."""
    policy, start = (load_policy(config.model, run, "float32") for run in (str(finished), config.policy))
    tiny.assert_same(policy.trunk, start.trunk)
    tiny.assert_same(start.top, tiny.nudged(load_base(config.model, tiny.FREEZE, "float32").top, 0.01))
    tiny.assert_all_moved(policy.top, start.top)
    top, meta = load_top(finished)
    assert set(top) - set(policy.top) == {"value"}
    assert np.abs(top["value"]["kernel"]).max() > 0
    assert (meta["role"], meta["trunk"]) == ("policy", start.fingerprint)


@pytest.fixture(scope="module")
def elaborate(config):
    """The same run with all that makes a state or a program larger."""
    changes = {
        "kl_target": 1.0,
        "kl_horizon": 20,
        "refresh_reference_every": 2,
        "value_model": "separate",
        "value_start": "reward",
        "value_warmup_steps": 1,
        "entropy_coef": 0.01,
        "target_kl": 0.002,
        "recompute_advantages": True,
    }
    decaying = dataclasses.replace(config.optimizer, schedule="linear")
    return dataclasses.replace(config, algorithm=tiny.algorithm(**changes), optimizer=decaying)


@pytest.fixture(scope="module")
def finished_elaborate(elaborate, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("elaborate")
    ppo.run(elaborate, workdir)
    return workdir


def test_the_policy_waits_for_its_value_function_and_the_reference_follows_it(finished_elaborate, elaborate):
    """The first step trains values alone. After the second the policy is the reference. So only step 4 diverges."""
    lines = tiny.logged(finished_elaborate)
    for line in lines[:3]:
        assert line["kl_k3"] == pytest.approx(0.0, abs=1e-7)
    assert lines[3]["kl_k3"] > 1e-6
    assert lines[0]["approximate_kl"] == 0.0 < lines[1]["approximate_kl"]
    assert lines[0]["gradient_norm"] == lines[0]["value_gradient_norm"] > 0
    state = tiny.final_state(finished_elaborate, state_of(elaborate))
    policy = {name: state.top[name] for name in state.reference}
    tiny.assert_same(state.reference, policy)  # refreshed after step 4


def test_skipped_updates_compile_nothing(finished_elaborate):
    """Invariant 14, with updates that are made in one step and not in another."""
    timing = tiny.logged(finished_elaborate, "timing")
    assert len({line["programs"] for line in timing[1:]}) == 1


def state_of(config):
    """A state of the shapes of a run's."""
    base = load_base(config.model, tiny.FREEZE, "float32")
    reward = tiny.with_role(base.top, "reward")
    value = start_value(config.algorithm, base.top, reward, 0.0, 1.0, jax.random.key(0))
    return PolicyState.create(
        {**base.top, "value": value},
        optimizer.make_optimizer(config.optimizer, 24),
        kl_coefficient=jnp.float32(0) if config.algorithm.kl_target else None,
        reference=base.top if config.algorithm.refresh_reference_every else None,
    )


@pytest.mark.parametrize("kind", ["", pytest.param("_elaborate", marks=pytest.mark.soak)])
def test_a_run_that_crashed_goes_on_bit_for_bit(request, kind, tmp_path):
    """Invariant 13: in the third step, after its metrics and samples were written and before anything was saved."""
    config = request.getfixturevalue("elaborate" if kind else "config")
    undisturbed = request.getfixturevalue(f"finished{kind}")
    with pytest.raises(ZeroDivisionError), tiny.after_step(3, lambda: 1 / 0):
        ppo.run(config, tmp_path)
    assert len(tiny.logged(tmp_path)) == 3
    ppo.run(config, tmp_path)
    for name in ("metrics.jsonl", *(f"samples-{step}.jsonl" for step in (0, 3, 4))):
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes(), name
    like = state_of(config)
    tiny.assert_same(tiny.final_state(tmp_path, like), tiny.final_state(undisturbed, like))


def test_samples_of_steps_that_are_made_anew_go(tmp_path):
    """A run that goes on may evaluate at other steps."""
    for step in (0, 3, 4, 10):
        (tmp_path / f"samples-{step}.jsonl").touch()
    ppo.remove_samples_after(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples-0.jsonl", "samples-3.jsonl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_batch": 3}, "config.sampling_batch is 3, which does not divide config.prompts_per_rollout 4; 2"),
        ({"microbatch": 3}, "config.microbatch is 3, which does not divide a minibatch of prompts, 2; 2 does"),
        ({"evaluate_prompts": {"test": 1}}, "has no example of the split 'test'"),
        ({"prompts_per_rollout": 32, "microbatch": 1}, "There are 24 examples, expected at least one batch of 32"),
    ],
)
def test_bad_input_is_a_sentence_and_no_checkpoint(config, tmp_path, changes, message):
    tiny.assert_refused(ppo.run, dataclasses.replace(config, **changes), tmp_path, message)


def test_a_reward_run_that_does_not_fit_is_refused(config, tmp_path):
    """Invariant 9: without constants, of another role, on another trunk."""
    base = load_base(config.model, tiny.FREEZE, "float32")
    top = tiny.with_role(base.top, "reward")
    meta = {**describe(base, "reward"), "mean": 0.0, "std": 1.0}
    for name, said, message in (
        ("unfinished", describe(base, "reward"), "has no normalisation constants; let its training end first"),
        ("policy", describe(base, "policy"), "holds a policy, expected a reward"),
        ("foreign", {**meta, "trunk": "f" * 64}, "was trained on the trunk ffffffffffff"),
    ):
        run = tiny.write_run(tmp_path / name, top, said)
        with pytest.raises(UserError, match=f"{run} {message}"):
            ppo.run(dataclasses.replace(config, reward=run), tmp_path / "run")


def test_a_step_that_spoils_the_policy_stops_the_run_before_it_is_sampled_or_saved(config, tmp_path):
    """Also where a minibatch that went too far is left out: one that is not a number is not left out."""
    absurd = dataclasses.replace(config.optimizer, learning_rate=1e38, clip_norm=0.0)
    settings = dataclasses.replace(config.algorithm, target_kl=0.1)
    changes = {"optimizer": absurd, "algorithm": settings, "evaluate_every": 1, "checkpoint_every": 1}
    with pytest.raises(UserError, match=r"ppo: the (loss|\w+_norm) of step 1 is (nan|inf); no checkpoint is complete"):
        ppo.run(dataclasses.replace(config, **changes), tmp_path)
    assert (tmp_path / "failed_step_1.npz").exists()
    assert not (tmp_path / "samples-1.jsonl").exists()
    assert not list((tmp_path / "checkpoints").iterdir())
