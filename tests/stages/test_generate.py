"""Samples of a policy as a file that grows and resumes, and the Python call of the same name."""

import dataclasses
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

import rlhf_jax
from rlhf_jax.data.records import Example, Samples, read, write
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import load_pretrained
from rlhf_jax.sampling.samples_file import Sampling, portable, select_examples
from rlhf_jax.stages import generate
from rlhf_jax.training.load import describe, load_base
from tests import tiny
from tests.golden_runs import assert_golden


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two samples each of nine prompts in two splits, without a reward model."""
    folder = tmp_path_factory.mktemp("inputs")
    model = tiny.write_model(folder / "model")
    base = load_base(model, tiny.FREEZE, "float32")
    sampling = Sampling(
        model=model,
        policy=tiny.write_run(folder / "sft", base.top, describe(base, "policy")),
        reward="",
        data=tiny.write_data(folder),
        prompts={"id_test": 0, "validation": 3},
        n=2,
        temperature=0.8,
        batch_size=3,
        **tiny.SAMPLING,
    )
    return generate.Config(stage="generate", name="sft", sampling=sampling)


def changed(config, **changes):
    return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, **changes))


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("samples")
    generate.run(config, workdir)
    return workdir


def test_golden_run(finished):
    records = read(finished / "samples.jsonl", Samples)
    assert_golden("generate", [{**dataclasses.asdict(record), "checkpoint": ""} for record in records])


def test_every_prompt_has_its_record(finished, config):
    records = {record.id: record for record in read(finished / "samples.jsonl", Samples)}
    examples = {example.id: example for example in select_examples(config.sampling.data, config.sampling.prompts)}
    assert sorted(records) == sorted(examples)
    assert [sum(r.split == split for r in records.values()) for split in ("id_test", "validation")] == [4, 3]
    for name, record in records.items():
        assert (record.prompt, record.reference) == (examples[name].prompt, examples[name].response)
        assert (record.n, record.temperature, record.seed, record.model) == (2, 0.8, 5, "sft")
        assert (record.rewards, record.selected) == (None, None)
        assert record.checkpoint == str(Path(config.sampling.policy).relative_to(finished.parent))
        assert len(record.outputs) == len(record.finish) == 2


@pytest.mark.parametrize(
    ("run", "workdir", "name"),
    [
        ("/runs/study/sft", "/runs/study/sample_sft", "sft"),
        ("/runs/study/sft", "/runs/study/deep/sample", "sft"),
        ("/runs/study/deep/sft", "/runs/study/sample", "deep/sft"),
        ("runs/ppo", "runs/samples", "ppo"),
        ("runs/ppo", f"{Path.cwd()}/runs/samples", "ppo"),
        ("/models/ppo", "/runs/samples", "/models/ppo"),
        ("", "runs/samples", ""),
    ],
)
def test_a_record_names_its_run_within_their_study(run, workdir, name):
    assert portable(run, Path(workdir)) == name


def test_a_run_that_was_cut_goes_on_with_the_same_samples(finished, config, tmp_path):
    """After one line of the first batch and half of the next: the same bytes, whatever was there."""
    whole = (finished / "samples.jsonl").read_text().splitlines(keepends=True)
    for lines in (1, 3, 5):
        (tmp_path / "samples.jsonl").write_text("".join(whole[:lines]) + whole[lines][:40])
        generate.run(config, tmp_path)
        assert (tmp_path / "samples.jsonl").read_text() == "".join(whole)
    generate.run(config, tmp_path)
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == len(whole)


def test_top_k_and_truncation_reach_the_sampler(config, tmp_path):
    """Of one token alone a hot sampler is greedy. A prompt cut on the left may be shorter than its own tail."""
    changes = {
        "top": {"top_k": 1, "temperature": 50.0},
        "greedy": {"temperature": 0.0},
        "left": {"max_prompt": 4, "truncation": "left"},
    }
    outputs = {}
    for name, change in changes.items():
        (tmp_path / name).mkdir()
        generate.run(changed(config, **change), tmp_path / name)
        outputs[name] = [record.outputs for record in read(tmp_path / name / "samples.jsonl", Samples)]
    assert outputs["top"] == outputs["greedy"]
    assert len(outputs["left"]) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": {"test": 3}}, "has no example of the split 'test'"),
        ({"policy": "/nowhere"}, "/nowhere/checkpoints holds no complete checkpoint"),
        ({"max_prompt": 4}, "needs more than 4 tokens without any of its text"),
        ({"top_k": tiny.VOCABULARY + 1}, "top_k is 301, expected at most 300"),
    ],
)
def test_bad_input_is_a_sentence_and_no_samples(config, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        generate.run(changed(config, **changes), tmp_path)
    assert not (tmp_path / "samples.jsonl").exists()


def test_the_python_call(config):
    model, params = load_pretrained(config.sampling.model)
    tokenizer = load_tokenizer(config.sampling.model)

    def call(prompts, **changes):
        settings = {"n": 2, "max_new_tokens": 5, "temperature": 0.8, "seed": 1, **changes}
        return rlhf_jax.generate(model, params, tokenizer, prompts, **settings)

    outputs = call(["Sort the array.", "Copy"])
    assert [len(texts) for texts in outputs] == [2, 2]
    assert all(isinstance(text, str) for texts in outputs for text in texts)
    assert call(["Sort the array.", "Copy"]) == outputs
    assert call(["Copy", "Sort the array."]) == outputs[::-1]  # a prompt's samples depend on it and the seed alone
    assert call(["Sort the array.", "Copy"], seed=2) != outputs
    greedy = call(["Sort the array.", "Copy"], temperature=0.0)
    assert greedy[0][0] == greedy[0][1]
    assert call([]) == []
    for arguments, message in (
        (dict(prompts=["Copy", " \n"]), r"prompts\[1\] is empty"),
        (dict(prompts=["Copy", "\ud83d"]), r"the field 'prompts\[1\]' is .* half of a character"),
        (dict(prompts=["Copy"], n=0), "n is 0, expected greater than or equal to 1"),
        (dict(prompts=["Copy"], n=1.5), "n is 1.5, expected a valid integer"),
        (dict(prompts=["Copy"], max_new_tokens=0), "max_new_tokens is 0"),
        (dict(prompts=["Copy"], temperature=-0.5), "the temperature is -0.5"),
        (dict(prompts=["Copy"], temperature=float("nan")), "the temperature is nan"),
        (dict(prompts=["Copy"], seed=-1), "seed is -1"),
    ):
        with pytest.raises(UserError, match=message):
            call(**arguments)


def test_the_python_call_is_the_stage_whatever_the_tokenizer_adds(tmp_path):
    """One that ends every text in EOS, as some do, and then one with a token that the embedding has no row for."""
    folder = tiny.write_model(tmp_path / "model", vocabulary=tiny.VOCABULARY)
    tokenizer = load_tokenizer(folder)
    both = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer.backend_tokenizer.post_processor = both
    tokenizer.save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer("Copy").input_ids[-1] == tokenizer.eos_token_id
    prompts = ["Sort the array.", "Copy"]  # names of records too, which random numbers are folded from
    write(tmp_path / "examples.jsonl", [Example(prompt, "id_test", prompt, "r") for prompt in prompts])
    settings = {"n": 2, "temperature": 0.8, "seed": 5, "max_new_tokens": 6}
    sampling = Sampling(
        model=folder,
        policy="",
        reward="",
        data=str(tmp_path / "examples.jsonl"),
        prompts={"id_test": 0},
        batch_size=2,
        **tiny.SAMPLING | settings,
    )
    generate.run(generate.Config("generate", "base", sampling), tmp_path)
    model, params = load_pretrained(folder)
    expected = [record.outputs for record in read(tmp_path / "samples.jsonl", Samples)]
    assert rlhf_jax.generate(model, params, tokenizer, prompts, **settings) == expected
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    (tmp_path / "more").mkdir()
    refused = f"the tokenizer knows {tiny.VOCABULARY + 1} ids and the embedding has {tiny.VOCABULARY} rows"
    with pytest.raises(UserError, match=refused):
        rlhf_jax.generate(model, params, tokenizer, prompts, **settings)
    with pytest.raises(UserError, match=refused):
        generate.run(generate.Config("generate", "base", sampling), tmp_path / "more")
