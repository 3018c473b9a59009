"""Stage `preferences`: a simulated annotator labels pairs of samples with the gold scorer, sometimes wrongly."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from rlhf_jax.config import Count, Fraction, Seed, content_of
from rlhf_jax.data.formats import source_text
from rlhf_jax.data.records import Preference, Samples, read, write
from rlhf_jax.errors import UserError
from rlhf_jax.judges import gold
from rlhf_jax.judges.gold import GoldConfig, Scorer, make_scorer


@dataclass(frozen=True)
class Config:
    """Settings of the stage.

    Attributes:
      stage: "preferences".
      samples: a samples.jsonl with two outputs per prompt or more.
      gold: the annotator.
      noise: probability that a label is flipped.
      pairs_per_prompt: largest number of pairs to label.
      seed: of the choice of pairs and of the noise.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("preferences.jsonl",)

    stage: str
    samples: str = content_of("data")
    gold: GoldConfig
    noise: Fraction
    pairs_per_prompt: Count
    seed: Seed


def check_here(config: Config) -> None:
    """As `gold.check_here`."""
    gold.check_here(config.gold)


def run(config: Config, workdir: Path) -> None:
    """Writes preferences.jsonl, `Preference` records with ids `<prompt id>/<k>`, and prints counts.

    The pairs of a prompt are drawn at random without repetition, as in human preference data, among its distinct
    outputs. A tie of the scorer is counted and the next pair is drawn. The draw depends only on the seed and the
    prompt's id, and the pairs do not depend on the noise. `margin` is the distance of the two gold scores. It is
    positive for flipped labels too, since a negative margin would reveal them.

    Raises:
      UserError: the samples are missing, broken or have single outputs, or no pair could be labelled.
    """
    path = workdir / "preferences.jsonl"
    if path.exists():
        print(f"{path} is complete, nothing to do.")
        return
    samples = read(config.samples, Samples)
    if not samples:
        raise UserError(f"{config.samples} has no samples, expected one line per prompt.")
    for record in samples:
        if record.n < 2:
            raise UserError(f'{config.samples}: "{record.id}" has one output, expected two or more to compare.')
    counts: Counter[str] = Counter()
    preferences = list(_label(samples, make_scorer(config.gold), config, counts))
    if not preferences:
        raise UserError(
            f"{config.samples}: no pair could be labelled ({counts['repeated']} repeated outputs, {counts['ties']} "
            "ties), expected prompts with different outputs."
        )
    write(path, preferences)
    print(
        f"{path}: {len(preferences)} pairs on {len(samples) - counts['without']} of {len(samples)} prompts, "
        f"{counts['flipped']} labels flipped; skipped {counts['repeated']} repeated outputs and {counts['ties']} ties."
    )


def _label(samples: Sequence[Samples], scorer: Scorer, config: Config, counts: Counter[str]) -> Iterator[Preference]:
    outputs = [list(dict.fromkeys(record.outputs)) for record in samples]
    texts = [source_text(record.prompt) for record, distinct in zip(samples, outputs, strict=True) for _ in distinct]
    scores = iter(scorer(texts, list(itertools.chain(*outputs))).tolist())
    for record, distinct in zip(samples, outputs, strict=True):
        counts["repeated"] += record.n - len(distinct)
        pairs = list(_draw(record, distinct, list(itertools.islice(scores, len(distinct))), config, counts))
        counts["without"] += not pairs
        yield from pairs


def _draw(
    record: Samples, outputs: Sequence[str], scores: Sequence[float], config: Config, counts: Counter[str]
) -> Iterator[Preference]:
    rng = np.random.default_rng([config.seed, *hashlib.sha256(record.id.encode()).digest()])
    pairs = list(itertools.combinations(range(len(outputs)), 2))
    labelled = 0
    for index in rng.permutation(len(pairs)):
        if labelled == config.pairs_per_prompt:
            break
        a, b = pairs[index]
        if scores[a] == scores[b]:
            counts["ties"] += 1
            continue
        flipped = rng.random() < config.noise
        counts["flipped"] += flipped
        better, worse = (a, b) if (scores[a] > scores[b]) != flipped else (b, a)
        yield Preference(
            id=f"{record.id}/{labelled}",
            split=record.split,
            prompt=record.prompt,
            chosen=outputs[better],
            rejected=outputs[worse],
            margin=abs(scores[a] - scores[b]),
        )
        labelled += 1
