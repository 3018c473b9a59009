"""A samples.jsonl rated by its text: by the oracle, one output at a time, and by a model of another tokenizer."""

import dataclasses
import json

import numpy as np
import pytest

from rlhf_jax.data.records import Samples, read, write
from rlhf_jax.data.tokenizer import encode_pair, load_tokenizer, train_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import load_pretrained
from rlhf_jax.stages import score
from rlhf_jax.training.load import describe, load_base
from tests import numpy_llama, tiny

MEAN, DEVIATION = -0.3, 2.5


def made_samples() -> list[Samples]:
    """Seven records of three outputs and two of one, among them an empty output and some that the limit cut."""
    records = []
    for i, example in enumerate(tiny.examples({"id_test": 5, "ood_test": 4})):
        outputs = [example.response, "Sort the file" if i % 2 else "", f"{example.response} And {i} more."]
        finish = ["eos", "length" if i % 2 else "eos", "eos"]
        n = 1 if i % 4 == 3 else 3
        shown = {"prompt": example.prompt, "reference": example.response, "outputs": outputs[:n], "finish": finish[:n]}
        rest = {"rewards": [0.0, 1.0, 2.0][:n], "selected": 0 if n == 1 else None, "model": "sft", "checkpoint": "runs"}
        records.append(Samples(example.id, example.split, **shown, **rest, temperature=1.0, n=n, seed=0))
    return records


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A reward model of which a half is frozen, and samples in batches of two prompts."""
    folder = tmp_path_factory.mktemp("inputs")
    model = tiny.write_model(folder / "model")
    write(folder / "samples.jsonl", made_samples())
    return score.Config(
        stage="score",
        name="proxy",
        samples=str(folder / "samples.jsonl"),
        model=model,
        reward=write_reward(folder / "reward", model),
        compare_with={},
        max_prompt=96,
        truncation="text",
        separator=" ",
        batch_size=2,
        dtype="float32",
        mesh=tiny.MESH,
        blocks=tiny.BLOCKS,
    )


def write_reward(folder, model, seed=5):
    base = load_base(model, tiny.FREEZE, "float32")
    meta = {**describe(base, "reward"), "mean": MEAN, "std": DEVIATION}
    return tiny.write_run(folder, tiny.with_role(base.top, "reward", seed), meta)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("score")
    score.run(config, workdir)
    return workdir


def oracle(folder, model_folder, record, seed=5):
    """Normalised scores by the NumPy network, each output alone. A cut one ends before its EOS."""
    model, params = load_pretrained(model_folder)
    tensors = numpy_llama.tensors_of(folder, model, params)
    kernel = np.asarray(tiny.with_role(params, "reward", seed)["reward"]["kernel"], np.float64)
    tokenizer, scores = load_tokenizer(model_folder), []
    for output, finish in zip(record.outputs, record.finish, strict=True):
        prompt, response = encode_pair(tokenizer, record.prompt, output, 96)
        ids = prompt + (response[:-1] if finish == "length" else response)
        scores.append((numpy_llama.hidden_states(tensors, model.architecture, ids)[-1] @ kernel - MEAN) / DEVIATION)
    return scores


def test_scores_are_those_of_each_output_alone(finished, config, tmp_path):
    """Invariants 5, 9 and 12. Whatever the batches, and every record but for its rewards as it was."""
    rated = {record.id: record for record in read(finished / "samples.jsonl", Samples)}
    samples = made_samples()
    assert sorted(rated) == sorted(record.id for record in samples)
    for i, record in enumerate(samples):
        assert dataclasses.replace(rated[record.id], rewards=record.rewards) == record
        if i in (0, 1, 3):
            (folder := tmp_path / str(i)).mkdir()
            np.testing.assert_allclose(rated[record.id].rewards, oracle(folder, config.model, record), atol=1e-4)


def test_a_reward_model_of_another_trunk_and_tokenizer_reads_the_texts_its_own_way(config, tmp_path, capsys):
    """And says once what it costs: the sum of its own tokens, prompts counted once, through all its parameters."""
    folder = tmp_path / "model"
    tiny.write_model(folder, seed=3, vocabulary=280)
    train_tokenizer(["Other texts altogether, in which nothing is an array. " * 9], 280).save_pretrained(folder)
    reward = write_reward(tmp_path / "reward", str(folder), seed=8)
    capsys.readouterr()
    score.run(dataclasses.replace(config, model=str(folder), reward=reward), tmp_path)
    tokenizer, tokens = load_tokenizer(str(folder)), 0
    samples = made_samples()
    for record in samples:
        items = [encode_pair(tokenizer, record.prompt, output, 96) for output in record.outputs]
        tokens += len(items[0][0]) + sum(len(response) for _, response in items) - record.finish.count("length")
    out = capsys.readouterr().out
    assert out.count("parameters") == 1 and f"{tokens:,} tokens through" in out
    rated = {record.id: record.rewards for record in read(tmp_path / "samples.jsonl", Samples)}
    (inner := tmp_path / "oracle").mkdir()
    np.testing.assert_allclose(rated[samples[0].id], oracle(inner, str(folder), samples[0], seed=8), atol=1e-4)


def test_the_summary_has_the_mean_by_split_and_the_agreement(finished, config, tmp_path):
    """Against the file's own rewards 0, 1, 2 of each prompt's outputs, and against itself."""
    compare_with = {"before": config.samples, "again": str(finished / "samples.jsonl")}
    (tmp_path / "samples.jsonl").write_bytes((finished / "samples.jsonl").read_bytes())
    score.run(dataclasses.replace(config, compare_with=compare_with), tmp_path)
    summary = json.loads((tmp_path / "scores.json").read_text())
    rated = read(finished / "samples.jsonl", Samples)
    for split, found in summary["splits"].items():
        assert found["mean"] == pytest.approx(np.mean([np.mean(r.rewards) for r in rated if r.split == split]))
    assert [summary["splits"][split]["n"] for split in ("id_test", "ood_test")] == [5, 4]
    several = [np.array(record.rewards) for record in rated if record.n == 3]
    alike = np.mean([np.mean([a < b, b < c, a < c]) for a, b, c in several])
    assert summary["agreement"]["names"] == ["proxy", "before", "again"]
    assert summary["agreement"]["agreement"][0] == [1.0, pytest.approx(alike), 1.0]
    assert summary["agreement"]["n"] == len(several) == 7
    assert "agreement" not in json.loads((finished / "scores.json").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "/nowhere"}, "/nowhere/checkpoints holds no complete checkpoint"),
        ({"compare_with": {"proxy": "x"}}, "config.compare_with has the reward model's own name 'proxy'"),
    ],
)
def test_bad_input_is_a_sentence(config, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        score.run(dataclasses.replace(config, **changes), tmp_path)
    assert not (tmp_path / "scores.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "another"}, "has no record of 'id_test/0'"),
        ({"rewards": None}, "has no rewards of 'id_test/0'"),
        ({"outputs": ["a", "b", "c"]}, "has other outputs of 'id_test/0', expected rewards of the outputs that are"),
    ],
)
def test_scores_of_other_outputs_are_refused_before_anything_runs(config, tmp_path, changes, message):
    first, *rest = made_samples()
    write(tmp_path / "other.jsonl", [dataclasses.replace(first, **changes), *rest])
    with pytest.raises(UserError, match=message):
        score.run(dataclasses.replace(config, compare_with={"other": str(tmp_path / "other.jsonl")}), tmp_path)
    assert not (tmp_path / "samples.jsonl").exists()
