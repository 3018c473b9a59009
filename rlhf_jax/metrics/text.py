"""Metrics of one output that need no model: overlap with the reference, length, copying, repetition.

They hold for every script. Words are runs of letters, marks and digits. In scripts that put no spaces between words
(Chinese, Japanese, Thai, Lao, Khmer, Burmese) every character is a word.
"""

import functools
import unicodedata
from typing import Any

import regex

_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_CHARACTER = regex.compile(rf"{_UNSPACED}\p{{M}}*")
_WORD = regex.compile(rf"{_UNSPACED}\p{{M}}*|[\w\p{{M}}--{_UNSPACED}]+", regex.V1)


def rouge_l(output: str, reference: str) -> float:
    """ROUGE-L F-measure (Lin, 2004), by rouge-score, in [0, 1]. 0 if a text has no letter or digit.

    Of texts in ASCII it is rouge-score's own, with Porter stemming. rouge-score takes all other letters for spaces.
    Here they are part of words, and words with them are not stemmed.
    """
    return float(_rouge_scorer().score(reference, output)["rougeL"].fmeasure)


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    class Words(DefaultTokenizer):
        def tokenize(self, text: str) -> list[str]:
            if text.isascii():
                return super().tokenize(text)
            words = word_tokens(text.replace("_", " "))
            return [part for word in words for part in (super().tokenize(word) if word.isascii() else [word])]

    return RougeScorer(["rougeL"], tokenizer=Words(use_stemmer=True))


def split_words(text: str) -> list[str]:
    """Splits a text at white space, and around every character of a script without spaces."""
    return (text if text.isascii() else _CHARACTER.sub(r" \g<0> ", text)).split()


def length_in_words(text: str) -> int:
    """Counts the words of `split_words`."""
    return len(split_words(text))


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
    """Splits a text into runs of letters, marks, digits and underscores, in lower case and composed (NFC)."""
    return _WORD.findall(unicodedata.normalize("NFC", text.lower()))


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))
