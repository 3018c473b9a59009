"""Stage `prepare`: writes the records that every later stage learns from and is tested on."""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from rlhf_jax.config import NOT_EMPTY, CountOrZero, Seed
from rlhf_jax.data import docstrings, records, remote, tokenise
from rlhf_jax.data.records import SPLITS, Example, Preference
from rlhf_jax.data.sources import parts
from rlhf_jax.data.sources.parts import Part
from rlhf_jax.data.tokens import FOLDER
from rlhf_jax.errors import UserError
from rlhf_jax.files import remove, write_text

type Splits = Mapping[str, Sequence[Example | Preference]]


@dataclass(frozen=True)
class Config:
    """Records to prepare.

    Attributes:
      stage: `prepare`.
      task: `docstrings`, the offline TL;DR over Python documentation. Or what `sources` hold, `examples` to learn
        responses from or `preferences`.
      splits: how many records of each split to write, 0 for all that there are. A split not named is not written.
      seed: draws the records of a split that is not written whole. Which split a record is in does not depend on it.
      packages: of `docstrings`, import names to read docstrings of. Empty for the default list.
      max_text: of `docstrings`, characters that a text is cut to.
      sources: of the other tasks, the datasets that the splits come from, each under a name of your own.
      tokens: how the records are tokenised, for training to read. None leaves that to the stages.
      bucket: address of a bucket's folder that the whole is copied to, e.g. `gs://bucket/tldr`. "" for none.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("corpus.json", "examples.jsonl", "preferences.jsonl", "tokens")

    stage: str
    task: Literal["docstrings", "examples", "preferences"]
    splits: Annotated[dict[str, CountOrZero], NOT_EMPTY]
    seed: Seed
    packages: tuple[str, ...] = ()
    max_text: CountOrZero = 0
    sources: dict[str, Part] = field(default_factory=dict)
    tokens: tokenise.Config | None = None
    bucket: str = ""


def run(config: Config, workdir: Path) -> None:
    """Writes `examples.jsonl` or `preferences.jsonl` (all splits), their tokens and `corpus.json`. Prints the latter.

    Does nothing where all are there: `corpus.json`, which says what the records were made from, is written last.

    Raises:
      UserError: a key that does not go with the task, an unknown split, more records asked for than there are, a
        package that is not installed, or as `sources.parts.gather`, `tokenise.write` and `remote.upload`.
    """
    kind = _kind(config)
    records_file, corpus_file = workdir / records.FILES[kind], workdir / "corpus.json"
    written = [records_file, corpus_file, *([workdir / FOLDER] if config.tokens else [])]
    if not all(path.exists() for path in written):
        check(config)
        splits, origin = _from_docstrings(config) if config.task == "docstrings" else _from_sources(config)
        chosen = {split: _choose(splits[split], split, config) for split in config.splits}
        everything = [record for split in chosen.values() for record in split]
        fingerprint = records.fingerprint(everything)
        for name in ("corpus.json", FOLDER, *records.FILES.values()):  # perhaps of another config
            remove(workdir / name)
        tokens = {"tokens": tokenise.write(workdir, chosen, fingerprint, config.tokens)} if config.tokens else {}
        records.write(records_file, everything)
        facts = {
            "task": config.task,
            "fingerprint": fingerprint,
            "available": {split: len(found) for split, found in splits.items()},
            "examples": {split: _by_origin(found) for split, found in chosen.items()},
            **origin,
            **tokens,
        }
        write_text(corpus_file, json.dumps(facts, indent=2) + "\n")
    if config.bucket:
        remote.upload(workdir, config.bucket)
    _print(json.loads(corpus_file.read_text("utf-8")))


def check(config: Config) -> None:
    """Raises UserError for a key that does not go with the task, and a split that nothing writes."""
    if config.task == "docstrings" and config.sources:
        raise UserError("sources is for the tasks examples and preferences, expected none for docstrings.")
    if config.task != "docstrings" and (config.packages or config.max_text):
        raise UserError(f"packages and max_text are for the task docstrings, expected neither for {config.task}.")
    if config.task != "docstrings" and not config.sources:
        raise UserError(f"sources is empty, expected the datasets that {config.task} come from.")
    if not config.splits:
        raise UserError("splits is empty, expected the splits to write.")
    for split, size in config.splits.items():
        if size < 0:
            raise UserError(f"splits.{split} is {size}, expected a number of examples, or 0 for all.")
    if config.task == "docstrings":
        if unknown := [split for split in config.splits if split not in SPLITS]:
            raise UserError(f"splits has the key {unknown[0]!r}, expected some of {', '.join(SPLITS)}.")
    else:
        parts.check(config.sources, config.splits, _kind(config))


def _kind(config: Config) -> type[Example] | type[Preference]:
    return Preference if config.task == "preferences" else Example


def _from_docstrings(config: Config) -> tuple[Splits, dict[str, Any]]:
    corpus = docstrings.load(config.packages, config.max_text)
    splits = {split: [example for example in corpus.examples if example.split == split] for split in SPLITS}
    return splits, {"versions": corpus.versions, "missing": corpus.missing}


def _from_sources(config: Config) -> tuple[Splits, dict[str, Any]]:
    gathered = parts.gather(config.sources, config.splits, _kind(config), _load_sentiment)
    return gathered.splits, {"sources": gathered.facts}


def _load_sentiment(name: str) -> Callable[[Sequence[str]], np.ndarray]:
    from rlhf_jax.encoders.classifier import load_sentiment  # imports jax

    return load_sentiment(name)


def _choose(there: Sequence[Example | Preference], split: str, config: Config) -> Sequence[Example | Preference]:
    """The records of one split, or as many of them as asked for, drawn by the seed and kept in order."""
    size = config.splits[split]
    if size > len(there):
        raise UserError(f"splits.{split} asks for {size} examples, expected at most the {len(there)} that there are.")
    if size == 0:
        return there
    number = SPLITS.index(split) if split in SPLITS else zlib.crc32(split.encode())
    random = np.random.default_rng((config.seed, number))
    return [there[index] for index in sorted(random.permutation(len(there))[:size])]


def _by_origin(chosen: Sequence[Example | Preference]) -> dict[str, int]:
    """Number of records per package or dataset, the first part of their ids."""
    counts = Counter(record.id.partition("/")[0] for record in chosen)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _print(facts: dict) -> None:
    width = max(10, *map(len, facts["examples"]))
    for split, origins in facts["examples"].items():
        largest = ", ".join(f"{name} {count:,}" for name, count in list(origins.items())[:6])
        more = ", ..." if len(origins) > 6 else ""
        print(f"{split:<{width}} {sum(origins.values()):>6,} of {facts['available'][split]:,} ({largest}{more})")
    print(f"corpus fingerprint {facts['fingerprint']}")
    if facts.get("missing"):
        print(f"not installed, so not in it: {', '.join(facts['missing'])}")
    for name, source in facts.get("sources", {}).items():
        for lost in source["lost"]:
            print(f"{name}: {lost}; the rest is there")
        if source["rows_left_out"]:
            print(f"{name}: {source['rows_left_out']:,} rows hold no record, the first: {source['first_left_out']}")
