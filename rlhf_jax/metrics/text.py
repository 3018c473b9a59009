"""Metrics of one output that need no model: overlap with the reference, length, copying, repetition."""

import functools
import re
from typing import Any


def rouge_l(output: str, reference: str) -> float:
    """ROUGE-L F-measure (Lin, 2004) with Porter stemming, by rouge-score, in [0, 1]. 0 if a text is empty."""
    return float(_rouge_scorer().score(reference, output)["rougeL"].fmeasure)


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def length_in_words(text: str) -> int:
    """Counts the words, split at white space."""
    return len(text.split())


def copied_fraction(output: str, text: str, n: int = 4) -> float:
    """Returns the fraction of the output's word n-grams that occur in the text, in [0, 1]. 1 for a copied sentence.

    Words are those of `word_tokens`. An output shorter than n words is one n-gram of its own length. An output
    without words has copied nothing.
    """
    words = word_tokens(output)
    n = min(n, len(words))
    if not n:
        return 0.0
    grams, known = _ngrams(words, n), set(_ngrams(word_tokens(text), n))
    return sum(gram in known for gram in grams) / len(grams)


def repetition(output: str, n: int = 4) -> float:
    """Returns the fraction of word n-grams that occurred earlier in the output, in [0, 1). 0 up to n words."""
    grams = _ngrams(word_tokens(output), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def word_tokens(text: str) -> list[str]:
    """Splits a text into runs of letters, digits and underscores, in lower case."""
    return re.findall(r"\w+", text.lower())


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))
