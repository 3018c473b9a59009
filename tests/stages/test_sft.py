"""Fine-tuning: the mean loss of response tokens however a batch is divided, a trunk that stays, a run that resumes."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import to_dict
from rlhf_jax.data import tokenise
from rlhf_jax.data.batches import Batches, Buckets, Encoding, Item, from_examples, in_order
from rlhf_jax.data.loading import Loading
from rlhf_jax.data.records import Example, read
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.flops import Costs, Rows
from rlhf_jax.models.hf.pretrained import save_pretrained
from rlhf_jax.stages import sft
from rlhf_jax.training import optimizer
from rlhf_jax.training.best_checkpoint import Selection
from rlhf_jax.training.checkpoint import load_top
from rlhf_jax.training.load import load_base, load_policy
from rlhf_jax.training.state import State
from rlhf_jax.training.train_step import make_train_step
from tests import numpy_llama, tiny
from tests.golden_runs import assert_golden

ADAM = optimizer.Config(learning_rate=3e-3, schedule="cosine")
BATCH = tiny.sequences([7, 1, 4, 9], [[5], [1], [8], [3]], prompt=9, response=8)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """24 steps of 8 examples in microbatches of 4."""
    folder = tmp_path_factory.mktemp("inputs")
    return sft.Config(
        stage="sft",
        model=tiny.write_model(folder / "model"),
        data=tiny.write_data(folder),
        evaluate_splits=("validation",),
        evaluate_examples=5,
        evaluate_samples=0,
        evaluate_every=8,
        freeze=tiny.FREEZE,
        response_buckets=(24,),
        long_responses="drop",
        batch_size=8,
        microbatch=4,
        mean_over="batch",
        steps=24,
        optimizer=ADAM,
        checkpoint_every=3,
        selection=Selection(),
        **tiny.TRAINING,
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("sft")
    sft.run(config, workdir)
    return workdir


def test_golden_run(finished):
    assert_golden("sft", tiny.logged(finished))


def losses_of_tokens(tensors, model, batch):
    """`-log p` of every response token, by the oracle."""
    return np.concatenate(
        [
            -numpy_llama.response_log_probs(tensors, model.architecture, tiny.ids(batch, row, 0), int(length))
            for row, (length,) in enumerate(batch.response_mask.sum(axis=-1))
            if length
        ]
    )


def test_the_loss_is_the_mean_over_response_tokens_however_the_batch_is_divided(tmp_path):
    """Invariant 6, by the oracle: 5, 1, 8 and 3 response tokens in one microbatch, and in four of unequal weight."""
    model, params = tiny.network(layers=2)
    trunk, top = model.split(params)
    transform = optimizer.make_optimizer(ADAM, 10)
    states = []
    for microbatch in (4, 1):
        state = State.create(jax.tree.map(jnp.copy, top), transform)
        step = make_train_step(partial(sft.response_loss, model), "tokens", transform, microbatch)
        state, metrics = step(state, trunk, BATCH)
        expected = losses_of_tokens(numpy_llama.tensors_of(tmp_path, model, params), model, BATCH)
        assert float(metrics["loss"]) == pytest.approx(expected.mean(), rel=1e-5)
        assert int(metrics["tokens"]) == len(expected) == 17
        states.append((state, metrics))
    (whole, metrics), (divided, divided_metrics) = states
    assert float(metrics["gradient_norm"]) == pytest.approx(float(divided_metrics["gradient_norm"]), rel=1e-5)
    assert (int(whole.step), int(whole.position)) == (1, 4)
    # The first step of Adam divides each gradient by itself, so moments are compared: they are the gradients.
    for a, b in zip(jax.tree.leaves(whole.moments), jax.tree.leaves(divided.moments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6)


def test_averaging_each_microbatch_first_is_another_loss(tmp_path):
    """Paper mode S2: by rows of 5, 1, 8 and 3 tokens the mean of means, and the update of its gradient."""
    model, params = tiny.network(layers=2)
    trunk, top = model.split(params)
    loss, unit = sft.LOSSES["microbatch"]
    transform = optimizer.make_optimizer(ADAM, 10)
    state = State.create(jax.tree.map(jnp.copy, top), transform)
    state, metrics = make_train_step(partial(loss, model), unit, transform, 1)(state, trunk, BATCH)
    tokens = losses_of_tokens(numpy_llama.tensors_of(tmp_path, model, params), model, BATCH)
    rows = np.split(tokens, np.cumsum([5, 1, 8]))
    assert float(metrics["loss"]) == pytest.approx(np.mean([row.mean() for row in rows]), rel=1e-5)
    assert abs(float(metrics["loss"]) - tokens.mean()) > 0.01

    gradient = jax.jit(jax.grad(lambda top, row: sft.response_loss(model, trunk, top, row)[0]))
    parts = []
    for i, row in enumerate(rows):
        found = gradient(top, jax.tree.map(lambda x, i=i: x[i : i + 1], BATCH))
        parts.append(jax.tree.map(lambda g, n=row.size: g / n / 4, found))
    gradients = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    expected = jax.jit(lambda state: state.updated(gradients, transform))(State.create(top, transform))
    for a, b in zip(jax.tree.leaves(state.moments), jax.tree.leaves(expected.moments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6)


def test_the_evaluation_loss_counts_no_filler_row(tmp_path):
    """Three items in batches of two."""
    model, params = tiny.network(layers=2)
    trunk, top = model.split(params)
    batch = jax.tree.map(lambda x: x[:3], BATCH)
    items = [
        Item(batch.prompt[i][batch.prompt_mask[i]].tolist(), [batch.response[i, 0][batch.response_mask[i, 0]].tolist()])
        for i in range(3)
    ]
    batches = [b for b, _ in in_order(items, 2, Buckets((9,), (8,)), pad_id=1)]
    assert len(batches) == 2
    loss = sft.evaluation_loss(sft.make_evaluate(model), trunk, top, batches)
    expected = losses_of_tokens(numpy_llama.tensors_of(tmp_path, model, params), model, batch)
    assert loss == pytest.approx(expected.mean(), rel=1e-5)


def test_a_run_learns_and_says_what_it_did(finished, config):
    lines = tiny.logged(finished)
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert set(lines[0]) == {"step", "loss", "tokens", "gradient_norm", "parameter_norm", "learning_rate"}
    assert [line["step"] for line in lines if "eval/validation/loss" in line] == [8, 16, 24]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["eval/validation/loss"] < lines[7]["eval/validation/loss"]
    assert lines[-1]["eval/validation/perplexity"] == pytest.approx(np.exp(lines[-1]["eval/validation/loss"]))
    assert lines[0]["learning_rate"] == pytest.approx(3e-3)
    _, meta = load_top(finished)
    assert (meta["role"], meta["freeze"]) == ("policy", tiny.FREEZE)


def test_nothing_is_compiled_after_the_first_evaluation(finished):
    """Invariant 14."""
    programs = {line["step"]: line["programs"] for line in tiny.logged(finished, "timing")}
    assert len({count for step, count in programs.items() if step >= 9}) == 1


def test_a_run_counts_its_operations_by_the_formula_of_the_ahead_of_time_check(finished, config):
    """Eight examples of 96 and 24 tokens. No MFU, because nobody knows a CPU's peak."""
    costs = Costs(load_base(config.model, config.freeze, "float32").model)
    expected = costs.supervised_gradient(Rows(8, 1, 96, 24), log_probs=True).flops
    for line in tiny.logged(finished, "timing"):
        assert line["flops_per_second"] * line["seconds"] == pytest.approx(expected)
        assert line["process_memory_peak_bytes"] > 0 and "mfu" not in line


def test_the_trunk_stays_and_the_top_moves(finished, config):
    """Invariant 11: what is frozen is the base model's, bit for bit, tied embeddings included."""
    base = load_base(config.model, config.freeze, "float32")
    policy = load_policy(config.model, str(finished), "float32")
    tiny.assert_same(policy.trunk, base.trunk)
    tiny.assert_same(base.model.head_table(policy.trunk), base.model.head_table(base.trunk))
    tiny.assert_all_moved(policy.top, base.top)


PROGRAM = """
from pathlib import Path
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({config!r})
"""


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(finished, config, tmp_path):
    """Invariant 13: SIGKILL in another process, then the same here. Parameters, moments and metrics agree.

    Both read tokens that were prepared, the first with two processes, and the undisturbed run read records: that shows
    in nothing. SIGUSR1 makes a profile on the way, and changes nothing either.
    """
    examples = read(config.data, Example)
    splits = {split: [e for e in examples if e.split == split] for split in ("train", "validation")}
    tokenise.write(tmp_path, splits, "source", tokenise.Config(config.model, 96, "text", " ", num_workers=0))
    (tmp_path / "corpus.json").write_text(json.dumps({"fingerprint": "source"}))
    config = dataclasses.replace(config, data=str(tmp_path), loading=Loading(num_workers=2, drop_shards=False))
    (tmp_path / "config.py").write_text(PROGRAM.format(config=to_dict(config)))
    workdir, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "rlhf_jax.main", f"--config={tmp_path / 'config.py'}", f"--workdir={workdir}"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=output, stderr=output, start_new_session=True
        )
        metrics = workdir / "metrics.jsonl"
        deadline = time.monotonic() + 600
        for lines, number in ((2, signal.SIGUSR1), (12, signal.SIGKILL)):
            while process.poll() is None and time.monotonic() < deadline:
                if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
                    break
                time.sleep(0.002)
            os.kill(process.pid, number)
        assert process.wait() == -signal.SIGKILL, log.read_text()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its workers, which outlive it
    steps = len(tiny.logged(workdir))
    assert 12 <= steps < 24
    ((_, phases),) = tiny.traced(workdir / "profile", "update").items()
    assert phases == ["update"] * 3
    sft.run(dataclasses.replace(config, loading=tiny.LOADING), workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    like = State.create(load_base(config.model, config.freeze, "float32").top, optimizer.make_optimizer(ADAM, 24))
    tiny.assert_same(tiny.final_state(workdir, like), tiny.final_state(finished, like))


def test_a_finished_run_is_left_alone(finished, config):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    sft.run(config, finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"microbatch": 3}, "config.microbatch is 3, which does not divide config.batch_size 8; 4 does|2 does"),
        ({"batch_size": 32}, "There are 24 examples, expected at least one batch of 32"),
        ({"response_buckets": (1,)}, "All 5 responses are longer than 1 tokens"),
        ({"long_responses": "error", "response_buckets": (9,)}, "'validation/2' has a response of 12 tokens, expected"),
        ({"selection": Selection("eval/validation/rouge_l")}, "config.selection.metric is 'eval/validation/rouge_l'"),
        ({"selection": Selection(load="best")}, "config.selection.load is 'best' and config.selection.metric is ''"),
    ],
)
def test_bad_input_is_a_sentence_and_no_checkpoint(config, tmp_path, changes, message):
    tiny.assert_refused(sft.run, dataclasses.replace(config, **changes), tmp_path, message)


def test_weights_that_are_not_numbers_stop_the_run_before_anything_is_saved(config, tmp_path):
    model, params = tiny.network(layers=2)
    params["norm"]["scale"] = params["norm"]["scale"].at[3].set(jnp.nan)
    broken = tmp_path / "model"
    tiny.write_model(broken)
    save_pretrained(broken, model, params)
    run, batch = tmp_path / "run", tmp_path / "run" / "failed_step_1.npz"
    message = f"sft: the loss of step 1 is nan; no checkpoint is complete yet, and the step's batch is in {batch}"
    with pytest.raises(UserError, match=message):
        sft.run(dataclasses.replace(config, model=str(broken)), run)
    assert not list((run / "checkpoints").iterdir())
    encoding = Encoding(load_tokenizer(config.model), max_prompt=96, max_response=24)
    train, _ = from_examples(encoding, [e for e in read(config.data, Example) if e.split == "train"])
    expected = Batches(train, 8, config.seed, Buckets((96,), (24,)), encoding.tokenizer.eos_token_id).at(0)
    with np.load(batch) as arrays:
        assert set(arrays) == {"prompt", "prompt_mask", "response", "response_mask"}
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, getattr(expected, name))
