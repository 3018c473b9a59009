"""Diversity by natural language inference (Stasaski & Hearst, 2022): texts that contradict each other are diverse."""

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.diversity import Mode

LABELS = ("contradiction", "neutral", "entailment")
WEIGHTS = np.array([1.0, 0.0, -1.0])

type Classifier = Callable[[Sequence[tuple[str, str]]], np.ndarray]
"""Pairs (premise, hypothesis) to `[n, 3]` probabilities of `LABELS`."""


def sentences(text: str) -> list[str]:
    """Splits a text at line breaks, after "。", "！" and "？", and after other ends of sentences before white space.

    Those are ".", "!", "?", "…", and their signs in Arabic and in scripts of India. An empty text is one sentence.
    """
    found = [sentence.strip() for sentence in re.split(r"(?<=[.!?…؟۔।॥])\s+|(?<=[。！？])|\n+", text)]
    return [sentence for sentence in found if sentence] or [""]


def nli_diversity(outputs: Sequence[str], classifier: Classifier, mode: Mode = "default", **drawn: int) -> float:
    """Returns the mean of `pair_values`: how much unordered pairs of texts contradict each other.

    `drawn` are its arguments `samples`, `largest` and `seed`.
    """
    return float(pair_values(outputs, classifier, mode, **drawn)[1].mean())


def pair_values(
    outputs: Sequence[str],
    classifier: Classifier,
    mode: Mode = "default",
    samples: int = 5,
    largest: int = 0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Measures how much the texts of each unordered pair contradict each other.

    Per pair of texts, `samples` pairs of sentences are drawn, one from each. Both orders of a pair are classified. Each
    counts the probability of its likeliest label, times +1 for contradiction, 0 for neutral and -1 for entailment. The
    orders are summed in "paper", so the value is in [-2, 2], and averaged by default, in [-1, 1]. The study's released
    code differs: it draws characters instead of sentences, and sums and divides otherwise (docs/evaluation.md).

    Args:
      outputs: the texts.
      classifier: pairs of texts to the probabilities of `LABELS`.
      mode: "default" or "paper".
      samples: pairs of sentences per pair of texts, or all if there are fewer.
      largest: largest number of pairs of texts, drawn without replacement. 0 for all.
      seed: of the draws. The same seed gives the same value.

    Returns:
      `(pairs, values)`: `[M, 2]` indices into `outputs`, and `[M]` float64.

    Raises:
      UserError: unknown mode, fewer than two outputs, no samples, or a classifier that does not return probabilities.
    """
    if mode not in ("default", "paper"):
        raise UserError(f'diversity mode is "{mode}", expected "default" or "paper".')
    if len(outputs) < 2:
        raise UserError(f"Pairwise diversity got {len(outputs)} output(s), expected two or more.")
    if samples < 1 or largest < 0:
        raise UserError(f"samples is {samples} and largest {largest}, expected 1 or more, and 0 or more.")
    rng = np.random.default_rng(seed)
    cut = [sentences(text) for text in outputs]
    pairs = list(itertools.combinations(range(len(outputs)), 2))
    if largest and len(pairs) > largest:
        pairs = [pairs[i] for i in sorted(rng.choice(len(pairs), largest, replace=False))]
    drawn = [_sentence_pairs(cut[i], cut[j], samples, rng) for i, j in pairs]
    both = [pair for found in drawn for first, second in found for pair in ((first, second), (second, first))]
    probabilities = np.asarray(classifier(both), np.float64)
    if probabilities.shape != (len(both), len(LABELS)) or not np.isfinite(probabilities).all():
        raise UserError(f"The classifier returned shape {list(probabilities.shape)}, expected [{len(both)}, 3].")
    likeliest = probabilities.argmax(axis=1)
    values = probabilities[np.arange(len(both)), likeliest] * WEIGHTS[likeliest]
    orders = values.reshape(-1, 2).sum(axis=1) / (1 if mode == "paper" else 2)
    ends = np.cumsum([len(found) for found in drawn])[:-1]
    return np.array(pairs), np.array([part.mean() for part in np.split(orders, ends)])


def _sentence_pairs(
    first: Sequence[str], second: Sequence[str], samples: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    found = list(itertools.product(first, second))
    if len(found) <= samples:
        return found
    return [found[i] for i in sorted(rng.choice(len(found), samples, replace=False))]
