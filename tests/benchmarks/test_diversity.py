"""The benchmark of diversity: its texts, and that its other side computes the same vectors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.encoders.sentence import SentenceEncoder
from tests.encoders.test_sentence import numbered, write_encoder

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def diversity(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import diversity

    yield diversity
    del sys.modules["diversity"]


def test_the_texts_are_as_many_and_as_long_as_said(diversity):
    outputs = diversity.texts(np.random.default_rng(0))
    assert len(outputs) == 500 and {len(found) for found in outputs} == {16}
    lengths = {len(text.split()) for found in outputs for text in found}
    assert (min(lengths), max(lengths)) == (6, 40)


def test_both_sides_give_the_same_vectors(diversity, tmp_path):
    folder = write_encoder(tmp_path)
    texts = [text for words in (3, 20) for text in numbered(2, words)]
    np.testing.assert_allclose(diversity.AsGiven(folder)(texts), SentenceEncoder(folder)(texts), atol=1e-6)


def test_the_benchmark_prints_what_was_asked_of_it(diversity, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(diversity.assets, "MINILM", str(write_encoder(tmp_path)))
    monkeypatch.setattr(diversity, "PROMPTS", 3)
    monkeypatch.setattr(sys, "argv", ["diversity.py", "--sample", "4"])
    diversity.main()
    printed = capsys.readouterr().out
    assert "EAD of 3 x 16 outputs" in printed and "for 4 of 360 pairs" in printed and "peak memory" in printed
