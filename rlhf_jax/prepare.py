"""Stage `prepare`: writes the examples that every later stage learns from and is tested on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlhf_jax.data import docstrings, records
from rlhf_jax.data.records import SPLITS, Example
from rlhf_jax.errors import UserError


@dataclass(frozen=True)
class Config:
    """What to prepare.

    Attributes:
      stage: `prepare`.
      task: `docstrings`, the offline TL;DR over Python documentation.
      packages: import names to read docstrings of; empty for the default list.
      splits: how many examples of each split to write, 0 for all that there are; a split not named is not written.
      max_text: characters that a text is cut to.
      seed: draws the examples of a split that is not written whole; which split an example is in does not depend on it.
    """

    stage: str
    task: str
    packages: tuple[str, ...]
    splits: dict[str, int]
    max_text: int
    seed: int


def run(config: Config, workdir: Path) -> None:
    """Writes `examples.jsonl` (all splits) and `corpus.json` (what it was made from), and prints the latter.

    Does nothing where both are there: `corpus.json` is written last.

    Raises:
      UserError: an unknown task or split, more examples asked for than there are, or a package that is not installed.
    """
    examples_file, corpus_file = workdir / "examples.jsonl", workdir / "corpus.json"
    if not (examples_file.exists() and corpus_file.exists()):
        _check(config)
        corpus = docstrings.load(config.packages, config.max_text)
        available = Counter(example.split for example in corpus.examples)
        chosen = [example for split in config.splits for example in _choose(corpus.examples, split, config)]
        records.write(examples_file, chosen)
        facts = {
            "task": config.task,
            "fingerprint": records.fingerprint(chosen),
            "available": {split: available[split] for split in SPLITS},
            "examples": {split: _by_package(chosen, split) for split in config.splits},
            "versions": corpus.versions,
            "missing": corpus.missing,
        }
        records.write_text(corpus_file, json.dumps(facts, indent=2) + "\n")
    _print(json.loads(corpus_file.read_text("utf-8")))


def _check(config: Config) -> None:
    if config.task != "docstrings":
        raise UserError(f"task is {config.task!r}, expected 'docstrings'.")
    for split, size in config.splits.items():
        if split not in SPLITS:
            raise UserError(f"splits has the key {split!r}, expected some of {', '.join(SPLITS)}.")
        if size < 0:
            raise UserError(f"splits.{split} is {size}, expected a number of examples, or 0 for all.")


def _choose(examples: list[Example], split: str, config: Config) -> list[Example]:
    """The examples of one split, or as many of them as asked for, drawn by the seed and kept in order."""
    there = [example for example in examples if example.split == split]
    size = config.splits[split]
    if size > len(there):
        raise UserError(f"splits.{split} asks for {size} examples, expected at most the {len(there)} that there are.")
    if size == 0:
        return there
    random = np.random.default_rng((config.seed, SPLITS.index(split)))
    return [there[index] for index in sorted(random.permutation(len(there))[:size])]


def _by_package(examples: list[Example], split: str) -> dict[str, int]:
    counts = Counter(example.id.partition("/")[0] for example in examples if example.split == split)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _print(facts: dict) -> None:
    for split, packages in facts["examples"].items():
        largest = ", ".join(f"{name} {count:,}" for name, count in list(packages.items())[:6])
        more = ", ..." if len(packages) > 6 else ""
        print(f"{split:<10} {sum(packages.values()):>6,} of {facts['available'][split]:,} ({largest}{more})")
    print(f"corpus fingerprint {facts['fingerprint']}")
    if facts["missing"]:
        print(f"not installed, so not in it: {', '.join(facts['missing'])}")
