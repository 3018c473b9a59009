"""Best-of-N answers with the output of the highest score. Of one sample it is plain sampling."""

import dataclasses

import numpy as np
import pytest

from rlhf_jax.data.records import Samples, read
from rlhf_jax.data.tokenizer import encode_prompt, load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import load_pretrained
from rlhf_jax.sampling.samples_file import Sampling
from rlhf_jax.stages import best_of_n, generate
from rlhf_jax.training.load import describe, load_base
from tests import numpy_llama, tiny
from tests.golden_runs import assert_golden

MEAN, DEVIATION = -0.3, 2.5


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Four samples each of four prompts, scored by a reward model on the same trunk."""
    folder = tmp_path_factory.mktemp("inputs")
    model = tiny.write_model(folder / "model")
    base = load_base(model, tiny.FREEZE, "float32")
    meta = {**describe(base, "reward"), "mean": MEAN, "std": DEVIATION}
    sampling = Sampling(
        model=model,
        policy=tiny.write_run(folder / "sft", base.top, describe(base, "policy")),
        reward=tiny.write_run(folder / "reward", tiny.with_role(base.top, "reward"), meta),
        data=tiny.write_data(folder),
        prompts={"id_test": 4},
        n=4,
        temperature=0.7,
        batch_size=4,
        **tiny.SAMPLING,
    )
    return best_of_n.Config(stage="best_of_n", name="bon", sampling=sampling)


@pytest.fixture(scope="module")
def records(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("bon")
    best_of_n.run(config, workdir)
    return read(workdir / "samples.jsonl", Samples)


def test_golden_run(records):
    assert_golden("best_of_n", [{**dataclasses.asdict(record), "checkpoint": ""} for record in records])


def test_what_is_selected_has_the_highest_reward(records):
    """Invariant 16, first half."""
    assert len(records) == 4
    for record in records:
        assert record.selected == max(range(4), key=lambda i: record.rewards[i])
    assert len({record.selected for record in records}) > 1


def samples_of(stage, config, workdir, **changes):
    """Runs a stage in a new folder with other sampling settings, and reads what it left."""
    workdir.mkdir()
    stage.run(dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, **changes)), workdir)
    return read(workdir / "samples.jsonl", Samples)


def test_rewards_are_normalised_scores_of_the_whole_reward_model(config, tmp_path):
    """Invariants 9 and 12, by the oracle: of greedy samples, whose tokens it finds by itself."""
    greedy = samples_of(best_of_n, config, tmp_path / "run", temperature=0.0)
    model, params = load_pretrained(config.sampling.model)
    tensors = numpy_llama.tensors_of(tmp_path / "model", model, params)
    tokenizer = load_tokenizer(config.sampling.model)
    kernel = np.asarray(tiny.with_role(params, "reward")["reward"]["kernel"], np.float64)
    for record in greedy:
        assert len(set(record.outputs)) == 1
        assert record.selected == int(np.argmax(record.rewards))
        ids = encode_prompt(tokenizer, record.prompt, 64)
        for _ in range(6):
            ids = [*ids, int(numpy_llama.logits(tensors, model.architecture, ids)[-1].argmax())]
            if ids[-1] == tokenizer.eos_token_id:
                break
        score = numpy_llama.hidden_states(tensors, model.architecture, ids)[-1] @ kernel
        assert record.rewards == pytest.approx([(score - MEAN) / DEVIATION] * 4, abs=2e-4)


def test_of_one_sample_it_is_plain_sampling(records, config, tmp_path):
    """Invariant 16, second half. And the one sample is the first of four."""
    of_one = samples_of(best_of_n, config, tmp_path / "bon", n=1)
    plain = samples_of(generate, generate.Config("generate", "sft", config.sampling), tmp_path / "sft", n=1, reward="")
    for one, sampled, four in zip(of_one, plain, records, strict=True):
        assert one.selected == 0
        assert one.outputs == sampled.outputs == four.outputs[:1]
        assert one.rewards == pytest.approx(four.rewards[:1], abs=1e-5)


def test_the_first_of_equals_is_the_best():
    assert best_of_n.best([0.5, 2.0, 2.0, -1.0]) == 1
    assert best_of_n.best([-3.0]) == 0


def test_without_a_reward_model_it_is_refused(config, tmp_path):
    sampling = dataclasses.replace(config.sampling, reward="")
    with pytest.raises(UserError, match="config.sampling.reward is empty, expected the folder of a reward run"):
        best_of_n.run(dataclasses.replace(config, sampling=sampling), tmp_path)
    assert not (tmp_path / "samples.jsonl").exists()
