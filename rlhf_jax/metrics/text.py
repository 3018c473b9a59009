"""What can be read off one output without a model: overlap with the reference, length, copying, repetition."""

from __future__ import annotations

import functools
import re
from typing import Any


def rouge_l(output: str, reference: str) -> float:
    """ROUGE-L F-measure (Lin, 2004) with Porter stemming, by the rouge-score library, in [0, 1]; 0 if one is empty."""
    return float(_rouge_scorer().score(reference, output)["rougeL"].fmeasure)


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def length_in_words(text: str) -> int:
    """Number of words, split at white space."""
    return len(text.split())


def copied_share(output: str, text: str, n: int = 4) -> float:
    """Share of the output's word n-grams that occur in the text, in [0, 1]: 1 for a copied sentence.

    Words are those of `word_tokens`. An output shorter than n words is taken as one n-gram of its own
    length, an output without words has copied nothing.
    """
    words = word_tokens(output)
    n = min(n, len(words))
    if not n:
        return 0.0
    grams, known = _ngrams(words, n), set(_ngrams(word_tokens(text), n))
    return sum(gram in known for gram in grams) / len(grams)


def repetition(output: str, n: int = 4) -> float:
    """Share of the output's word n-grams that occurred earlier in it, in [0, 1); 0 for outputs of at most n words."""
    grams = _ngrams(word_tokens(output), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def word_tokens(text: str) -> list[str]:
    """Runs of letters, digits and underscores, in lower case."""
    return re.findall(r"\w+", text.lower())


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))
