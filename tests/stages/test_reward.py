"""Reward modelling: the Bradley-Terry loss of whole pairs, fillers that weigh nothing, constants in the checkpoint."""

import dataclasses
import json
import os
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data.records import Preference, write
from rlhf_jax.data.tokenizer import encode_pair, load_tokenizer
from rlhf_jax.sampling.score import make_score
from rlhf_jax.stages import reward
from rlhf_jax.training import optimizer
from rlhf_jax.training.best_checkpoint import Selection
from rlhf_jax.training.checkpoint import load_top
from rlhf_jax.training.load import describe, load_base, load_top_on
from rlhf_jax.training.state import State
from rlhf_jax.training.train_step import make_train_step
from tests import numpy_llama, tiny
from tests.golden_runs import assert_golden

ADAM = optimizer.Config(learning_rate=1e-3)
# Three pairs and a filler: a one-token prompt without responses.
BATCH = reward.Pairs(
    tiny.sequences([7, 1, 4, 1], [[5, 8], [1, 3], [8, 2], [0, 0]], prompt=9, response=8),
    np.array([0.5, 2.0, 0.1, 0.0], np.float32),
)
PLAIN = reward.Objective(margin=0.0, center_rewards_coefficient=0.0)


def preferences(splits: dict[str, int]) -> list[Preference]:
    made = []
    for example in tiny.examples(splits):
        texts = example.response, example.response + " And more."
        made.append(Preference(example.id, example.split, example.prompt, *texts, margin=len(made) % 5 / 4))
    return made


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Four steps of 8 pairs in microbatches of 4, from an SFT run's top."""
    folder = tmp_path_factory.mktemp("inputs")
    model = tiny.write_model(folder / "model")
    base = load_base(model, tiny.FREEZE, "float32")
    write(folder / "preferences.jsonl", preferences({"train": 24, "validation": 6}))
    return reward.Config(
        stage="reward",
        model=model,
        policy=tiny.write_run(folder / "sft", base.top, describe(base, "policy")),
        data=str(folder / "preferences.jsonl"),
        evaluate_splits=("validation",),
        evaluate_every=2,
        response_buckets=(32,),
        separator=" ",
        long_responses="drop",
        batch_size=8,
        microbatch=4,
        steps=4,
        objective=PLAIN,
        optimizer=ADAM,
        normalisation_pairs=6,
        checkpoint_every=2,
        selection=Selection(),
        **tiny.TRAINING,
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reward")
    reward.run(config, workdir)
    return workdir


def test_golden_run(finished):
    assert_golden("reward", tiny.logged(finished))


def expected_scores(tensors, model, params, batch):
    """`[3, 2]`, by the oracle, each response alone."""
    kernel = np.asarray(params["reward"]["kernel"], np.float64)
    return np.array(
        [
            [
                numpy_llama.hidden_states(tensors, model.architecture, tiny.ids(batch, row, n))[-1] @ kernel
                for n in range(2)
            ]
            for row in range(3)
        ]
    )


def test_the_loss_is_the_mean_over_pairs_however_the_batch_is_divided(tmp_path):
    """Invariants 6 and 9, by the oracle, which scores each response alone."""
    model, params = tiny.network(layers=2)
    params = tiny.with_role(params, "reward")
    trunk, top = model.split(params)
    scores = expected_scores(numpy_llama.tensors_of(tmp_path, model, params), model, params, BATCH.sequences)
    margin = scores[:, 0] - scores[:, 1]
    transform = optimizer.make_optimizer(ADAM, 10)
    states = []
    for microbatch in (4, 1):
        state = State.create(jax.tree.map(jnp.copy, top), transform)
        step = make_train_step(partial(reward.pair_loss, model, PLAIN), "pairs", transform, microbatch)
        state, metrics = step(state, trunk, BATCH)
        assert float(metrics["loss"]) == pytest.approx(np.logaddexp(0, -margin).mean(), rel=1e-4)
        assert float(metrics["accuracy"]) == pytest.approx((margin > 0).mean())
        assert float(metrics["margin"]) == pytest.approx(margin.mean(), abs=1e-4)
        states.append(state)
    for a, b in zip(*(jax.tree.leaves(state.moments) for state in states), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize(("margin", "center_rewards_coefficient"), [(0.7, 0.0), (0.0, 0.01), (0.7, 0.01)])
def test_margin_and_centring_are_added_as_their_papers_write_them(monkeypatch, margin, center_rewards_coefficient):
    """Touvron et al. (2023), eq. 2, and Eisenstein et al. (2023). The metrics stay those of the scores as they are."""
    scores = np.array([[1.0, 0.5], [-0.5, 2.0], [3.0, 0.1], [7.0, 8.0]], np.float32)  # the last is the filler's
    monkeypatch.setattr(reward, "raw_scores", lambda *arguments: jnp.asarray(scores))
    batch = jax.tree.map(jnp.asarray, BATCH)
    _, sums = reward.pair_loss(None, PLAIN, {}, {}, batch)
    loss, with_terms = reward.pair_loss(None, reward.Objective(margin, center_rewards_coefficient), {}, {}, batch)
    scores = scores[:3].astype(np.float64)
    difference = scores[:, 0] - scores[:, 1] - margin * BATCH.margin[:3]
    expected = np.sum(np.log1p(np.exp(-difference))) + center_rewards_coefficient * np.sum(
        (scores[:, 0] + scores[:, 1]) ** 2
    )
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    tiny.assert_same(with_terms, sums)


def test_a_run_says_what_it_did_and_learns(finished):
    lines = tiny.logged(finished)
    names = {"step", "loss", "accuracy", "margin", "pairs", "gradient_norm", "parameter_norm", "learning_rate"}
    assert set(lines[0]) == names
    measured = {f"eval/validation/{name}" for name in reward.MEASURED}
    assert set(lines[1]) == names | measured
    assert set(lines[3]) == names | measured | {"score_mean", "score_std"}
    assert lines[3]["eval/validation/loss"] < lines[1]["eval/validation/loss"]


def test_the_constants_are_those_of_the_final_scores_over_seeded_training_pairs(finished, config):
    """Invariant 9: recomputed pair by pair from the checkpoint, without batches."""
    base = load_base(config.model, tiny.FREEZE, "float32")
    top, meta = load_top_on(base, str(finished), "reward")
    tokenizer = load_tokenizer(config.model)
    pairs = preferences({"train": 24})
    rows = []
    for i in np.random.default_rng(config.seed).permutation(24)[: config.normalisation_pairs]:
        encoded = [encode_pair(tokenizer, pairs[i].prompt, text, 96) for text in (pairs[i].chosen, pairs[i].rejected)]
        rows.append((encoded[0][0], [response for _, response in encoded]))
    score = make_score(base.model)
    scores = []
    for prompt, responses in rows:
        batch = tiny.sequences([len(prompt)], [[len(r) for r in responses]], prompt=96, response=32)
        batch.prompt[0, : len(prompt)] = prompt
        for n, response in enumerate(responses):
            batch.response[0, n, : len(response)] = response
        scores.append(np.asarray(score(base.trunk, top, batch)))
    assert meta["mean"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert meta["std"] == pytest.approx(np.std(scores), rel=1e-4)


def test_quality_holds_what_a_report_draws(finished):
    """The last evaluation's numbers again, the bins of all pairs, and the accuracy by their five margins."""
    quality = json.loads((finished / "quality.json").read_text())
    validation = quality["splits"]["validation"]
    line = tiny.logged(finished)[quality["step"] - 1]
    assert quality["step"] == 4
    assert {name: validation[name] for name in reward.MEASURED} == {
        name: line[f"eval/validation/{name}"] for name in reward.MEASURED
    }
    assert sum(entry["n"] for entry in validation["calibration"]) == validation["n"] == 6
    by_margin = validation["accuracy_by_margin"]
    assert sum(entry["n"] for entry in by_margin) == 6
    assert sum(entry["mean"] * entry["n"] for entry in by_margin) / 6 == pytest.approx(validation["accuracy"])


def test_the_best_checkpoint_has_its_own_constants_and_is_the_one_that_is_loaded(config, tmp_path):
    """By the highest loss, so that the first evaluation is the best: the run goes on, and its top is left behind."""
    selection = Selection("eval/validation/loss", better="higher", load="best")
    reward.run(dataclasses.replace(config, evaluate_every=1, selection=selection), tmp_path)
    lines = tiny.logged(tmp_path)
    losses = [line["eval/validation/loss"] for line in lines]
    best = int(np.argmax(losses)) + 1
    assert best < 4
    top, meta = load_top(tmp_path)
    assert meta["best"] == {"metric": selection.metric, "value": max(losses), "step": best}
    assert (meta["mean"], meta["std"]) == tuple(lines[best - 1][f"score_{k}"] for k in ("mean", "std"))
    assert meta["mean"] != lines[3]["score_mean"]
    assert json.loads((tmp_path / "quality.json").read_text())["step"] == best
    like = State.create(jax.tree.map(jnp.asarray, top), optimizer.make_optimizer(ADAM, 4))
    last = tiny.final_state(tmp_path, like)
    assert int(last.step) == 4
    assert (np.asarray(last.top["reward"]["kernel"]) != top["reward"]["kernel"]).any()


def test_the_trunk_stays_and_the_head_is_new(finished, config):
    """Invariant 11: what is loaded beside the top is the base model's trunk. Its head is drawn by the seed."""
    base = load_base(config.model, tiny.FREEZE, "float32")
    top, meta = load_top(finished)
    assert meta["trunk"] == base.fingerprint
    assert set(top) == set(base.top) | {"reward"}
    tiny.assert_all_moved({name: top[name] for name in base.top}, base.top)


def test_a_run_that_was_stopped_has_no_constants_yet_and_goes_on_bit_for_bit(finished, config, tmp_path):
    """Invariant 13 by Ctrl-C: the step is finished and saved, and PPO would refuse what it finds there."""
    with pytest.raises(KeyboardInterrupt), tiny.after_step(3, lambda: os.kill(os.getpid(), signal.SIGINT)):
        reward.run(config, tmp_path)
    assert len(tiny.logged(tmp_path)) == 3
    assert "mean" not in load_top(tmp_path)[1]
    reward.run(config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    top = load_top(finished)[0]
    like = State.create(jax.tree.map(jnp.asarray, top), optimizer.make_optimizer(ADAM, 4))
    tiny.assert_same(tiny.final_state(tmp_path, like), tiny.final_state(finished, like))
    assert load_top(tmp_path)[1] == load_top(finished)[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate_splits": ("test",)}, "has no preference of the split 'test'"),
        ({"response_buckets": (2,)}, "All 6 responses are longer than 2 tokens"),
        ({"selection": Selection("accuracy", "higher")}, "metric is 'accuracy', expected '' or one of eval/validation"),
    ],
)
def test_bad_input_is_a_sentence_and_no_checkpoint(config, tmp_path, changes, message):
    tiny.assert_refused(reward.run, dataclasses.replace(config, **changes), tmp_path, message)
