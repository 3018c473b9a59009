import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.configs import prepare as prepare_configs
from rlhf_jax.data import docstrings, records
from rlhf_jax.data.records import Example
from rlhf_jax.data.tokenizer import train_tokenizer
from rlhf_jax.encoders.classifier import load_sentiment
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_text
from rlhf_jax.stages import prepare
from rlhf_jax.stages.runner import run_stage
from tests.data.sources.layouts import write
from tests.encoders.test_sentence import numbered, write_folder
from tests.metrics.test_nli import classifier_tensors

CONFIG = prepare.Config(
    stage="prepare",
    task="docstrings",
    packages=("anything",),
    splits={"train": 5, "validation": 0, "ood_test": 0},
    max_text=700,
    seed=0,
)


@pytest.fixture
def corpus(monkeypatch):
    """A corpus of 20 training examples and two in each other split. Counts how often it is read."""
    sizes = {"train": 20, "validation": 2, "id_test": 2, "ood_test": 2}
    examples = [
        Example(f"pkg{number % 2}/{split}{number:02}", split, f"prompt {split} {number}", "response")
        for split, size in sizes.items()
        for number in range(size)
    ]
    reads = []

    def load(packages, max_text):
        reads.append((packages, max_text))
        return docstrings.Corpus(examples, {"python": "3"}, ("absent",))

    monkeypatch.setattr(docstrings, "load", load)
    return examples, reads


def test_the_splits_asked_for_are_written(tmp_path, corpus, capsys):
    examples, reads = corpus
    prepare.run(CONFIG, tmp_path)
    written = records.read(tmp_path / "examples.jsonl", Example)
    assert reads == [(("anything",), 700)]
    assert len([example for example in written if example.split == "train"]) == 5
    assert [example for example in written if example.split != "train"] == examples[20:22] + examples[24:]
    assert [examples.index(example) for example in written] == sorted(examples.index(example) for example in written)

    facts = json.loads((tmp_path / "corpus.json").read_text())
    assert facts["fingerprint"] == records.fingerprint(written)
    assert facts["available"] == {"train": 20, "validation": 2, "id_test": 2, "ood_test": 2}
    assert sum(facts["examples"]["train"].values()) == 5
    assert facts["examples"]["validation"] == {"pkg0": 1, "pkg1": 1}
    assert facts["versions"] == {"python": "3"} and facts["missing"] == ["absent"]
    printed = capsys.readouterr().out
    assert "5 of 20" in printed and facts["fingerprint"] in printed and "not in it: absent" in printed


def test_running_again_does_nothing_until_a_file_is_lost(tmp_path, corpus, capsys):
    _, reads = corpus
    prepare.run(CONFIG, tmp_path)
    printed = capsys.readouterr().out
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    prepare.run(CONFIG, tmp_path)
    assert capsys.readouterr().out == printed and len(reads) == 1
    for lost in before:
        lost.unlink()
        prepare.run(CONFIG, tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {"a": None}}, "sources is for the tasks examples and preferences"),
        ({"task": "examples"}, "packages and max_text are for the task docstrings"),
        ({"task": "examples", "packages": (), "max_text": 0}, "sources is empty"),
        ({"splits": {"test": 1}}, "splits has the key 'test'"),
        ({"splits": {"train": 21}}, "splits.train asks for 21 examples, expected at most the 20"),
    ],
)
def test_bad_configs_are_refused_and_nothing_is_written(tmp_path, corpus, changes, message):
    with pytest.raises(UserError, match=message):
        prepare.run(replace(CONFIG, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def posts(tmp_path):
    """TL;DR's files: 6 posts a split, of 243 words and one more each."""
    rows = [
        {"subreddit": "tea", "title": "t", "post": " ".join(["w"] * (243 + n)), "summary": f" Said {n}."}
        for n in range(6)
    ]
    for file in ("train", "valid", "test"):
        write(tmp_path / "posts" / f"{file}.jsonl", rows)
    return str(tmp_path / "posts")


def test_a_study_s_data_from_datasets(tmp_path, posts, capsys):
    config = prepare_configs.get_config("tldr,length")
    config.sources.tldr.path = posts
    config.tokens = None
    config.splits.full_test = 4
    run_stage(config, tmp_path / "out")
    written = records.read(tmp_path / "out" / "examples.jsonl", Example)
    counts = {split: sum(record.split == split for record in written) for split in config.splits}
    halves = ("train", "validation", "id_test", "ood_validation", "ood_test")
    assert counts == dict.fromkeys(halves, 3) | {"full_validation": 6, "full_test": 4}
    facts = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert facts["fingerprint"] == records.fingerprint(written)
    assert facts["available"] == counts | {"full_test": 6}
    assert facts["examples"]["ood_test"] == {"tldr": 3}
    assert facts["sources"]["tldr"]["path"] == posts
    printed = capsys.readouterr().out
    assert "full_test" in printed and "4 of 6 (tldr 4)" in printed


def test_a_classifier_by_name_divides_a_study_s_data(tmp_path):
    """A small classifier on disk. What it says of the posts is what makes the splits."""
    rows = [{"subreddit": "t", "title": "t", "post": text, "summary": "s"} for text in numbered(12, 6, seed=0)]
    for file in ("train", "valid", "test"):
        write(tmp_path / "posts" / f"{file}.jsonl", rows)
    labels = {"0": "negative", "1": "neutral", "2": "positive"}
    folder = str(write_folder(tmp_path / "model", "bert", classifier_tensors("bert"), id2label=labels))
    config = prepare_configs.get_config("tldr,sentiment")
    config.sources.tldr.path = str(tmp_path / "posts")
    config.sources.tldr.shift.classifier = folder
    run_stage(config, tmp_path / "out")
    written = records.read(tmp_path / "out" / "examples.jsonl", Example)
    positive = load_sentiment(folder)([row["post"] for row in rows])
    assert 0 < sum(positive) < 12
    for split, expected in (("train", positive), ("id_test", positive), ("ood_test", ~positive)):
        found = [int(record.id.split("/")[2]) for record in written if record.split == split]
        assert found == np.flatnonzero(expected).tolist()


def test_nothing_is_written_where_a_dataset_is_broken(tmp_path, posts):
    config = prepare_configs.get_config("tldr,AskReddit")
    config.sources.tldr.path = posts
    with pytest.raises(UserError, match="The shift AskReddit leaves nothing of the split"):
        run_stage(config, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "inputs.json"}


TOKENS_PROGRAM = """
import json, sys
from rlhf_jax.main import main

if __name__ == "__main__":
    assert main(["main", *sys.argv[2:]]) == 0
    import tensorflow_datasets as tfds
    from rlhf_jax.data.batches import Encoding
    from rlhf_jax.data.loading import Loading, load_splits
    from rlhf_jax.data.records import Example
    from rlhf_jax.data.tokenizer import load_tokenizer

    model, folder = sys.argv[1], sys.argv[2].partition("=")[2]
    train, _ = load_splits(folder, Example, Encoding(load_tokenizer(model), 64, 32), ["ood_test"], Loading(0, False))
    rows = list(tfds.builder_from_directory(f"{folder}/tokens").as_data_source(split="train"))
    assert [row["prompt"].tolist() for row in rows] == [item.prompt for item in train]
    assert [[row["response"].tolist()] for row in rows] == [item.responses for item in train]
    print(json.dumps([row["id"].decode() for row in rows]))
"""


def test_tokens_without_tensorflow_that_tfds_reads(tmp_path, posts):
    """By the command line in two processes. An import of TensorFlow in any of them would raise."""
    texts = [f"SUBREDDIT: r/tea\nTITLE: t\nPOST: w w w\nTL;DR: Said {n}." for n in range(9)] * 20
    train_tokenizer(texts, 280).save_pretrained(tmp_path / "model")
    write_text(tmp_path / "path" / "tensorflow" / "__init__.py", "raise RuntimeError('TensorFlow is imported')\n")
    write_text(tmp_path / "program.py", TOKENS_PROGRAM)
    out = tmp_path / "out"
    overrides = {"sources.tldr.path": posts, "tokens.model": tmp_path / "model", "tokens.max_prompt": 64}
    arguments = [f"--workdir={out}", "--config=configs/prepare.py:tldr,length"]
    arguments += [f"--config.{key}={value}" for key, value in overrides.items()]
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path / "model", *arguments],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{tmp_path / 'path'}"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    written = records.read(out, Example)
    ids = [record.id for record in written if record.split == "train"]
    assert json.loads(result.stdout.splitlines()[-1]) == ids and len(ids) == 3
    corpus = json.loads((out / "corpus.json").read_text())
    made_with = json.loads((out / "tokens" / "metadata.json").read_text())
    assert corpus["tokens"] == made_with
    assert (made_with["source"], made_with["max_prompt"]) == (records.fingerprint(written), 64)
