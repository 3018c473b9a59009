"""Sentence encoders against sentence-transformers: MiniLM itself, and small random ones of the other families."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlhf_jax import assets
from rlhf_jax.data import docstrings
from rlhf_jax.encoders.sentence import load_encoder
from tests.encoders.test_sentence import WORDS, write_encoder

MIN_COSINE = 0.9999
TEXTS = 400


def compare(folder: Path, run_torch: Callable[..., str]) -> dict[str, float]:
    """The smallest cosine of a text's two vectors, by encoder. `run_torch` is `compare_live.run_torch`."""
    corpus = docstrings.load(("argparse", "json", "logging"), 400).examples
    rng = np.random.default_rng(0)
    made_up = [" ".join(rng.choice(WORDS[4:], rng.integers(1, 60))) for _ in range(TEXTS // 2)]
    found = [text for example in corpus for text in (example.prompt, example.response)][: TEXTS - len(made_up)]
    texts = found + made_up
    assert len(texts) == TEXTS
    folder.mkdir()
    (folder / "texts.json").write_text(json.dumps(texts))
    places = {"all-MiniLM-L6-v2": assets.resolve(assets.MINILM)}
    for family in ("bert", "roberta", "mpnet"):
        places[f"{family}, random"] = write_encoder(folder / family, family, longest=40)
    run_torch("encoders_reference.py", folder / "texts.json", folder / "vectors.npz", *places.values())
    with np.load(folder / "vectors.npz") as expected:
        return {
            name: _smallest_cosine(load_encoder(str(place))(texts), expected[str(number)])
            for number, (name, place) in enumerate(places.items())
        }


def _smallest_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    ours, theirs = (
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None] for x in (ours, theirs)
    )
    return float((ours * theirs).sum(axis=1).min())


def table(cosines: dict[str, float]) -> str:
    """As `docs/evaluation.md` has it."""
    rows = [f"| {name} | {1 - cosine:.0e} |" for name, cosine in cosines.items()]
    return "\n".join([f"| encoder | 1 - smallest cosine of {TEXTS} texts |", "|---|---|", *rows])
