"""The simulated judge. It scores a summary by the text alone and never reads the human summary.

    score = similarity(text, output) - copy_penalty * copied 4-gram fraction - length_penalty * words beyond free_words

A judge that read the human summary would let it win every time. Without the copy term a copied first sentence would
beat most human summaries. Without the length term a longer output would cover more of the text and score higher.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_jax.config import CountOrZero, NonNegative, Number, content_of
from rlhf_jax.encoders.cached import EncodeOnce
from rlhf_jax.metrics.diversity import Encoder
from rlhf_jax.metrics.text import copied_fraction, length_in_words

type Similarity = Callable[[Sequence[str], Sequence[str]], np.ndarray]
type Scorer = Callable[[Sequence[str], Sequence[str]], np.ndarray]

LEXICAL = "lexical"
SCORE_FLOOR = -2.0
"""The score of an empty output, and the lowest score of any other."""


@dataclass(frozen=True)
class GoldConfig:
    """Settings of the gold scorer.

    Attributes:
      encoder: "lexical", or the name of a sentence encoder as `load_encoder` takes it.
      copy_penalty: the penalty of an output that is copied whole.
      free_words: words without a penalty. 95 % of docstring summary lines have at most 16 words.
      length_penalty: the penalty of each further word. Below 0 it makes a scorer that likes long outputs.
    """

    encoder: str = content_of("encoder")
    copy_penalty: NonNegative = 0.25
    free_words: CountOrZero = 16
    length_penalty: Number = 0.02

    @property
    def judge(self) -> str:
        """The judge's name in judgements and reports."""
        return f"gold ({self.encoder})"


@dataclass(frozen=True)
class GoldScorer:
    """`similarity` minus the penalties of `config`, as in the equation of the module.

    Attributes:
      similarity: texts and outputs to `[n]` cosines.
      config: the penalties.
    """

    similarity: Similarity
    config: GoldConfig

    def __call__(self, texts: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
        """Scores each output against its text.

        Args:
          texts: the texts to summarise.
          outputs: one summary each. White space around it does not count.

        Returns:
          `[n]` float64, higher is better, at most 1. -2 for an empty output, and no other output scores below that.
        """
        outputs = [output.strip() for output in outputs]
        penalties = [self._penalty(text, output) for text, output in zip(texts, outputs, strict=True)]
        scores = np.asarray(self.similarity(texts, outputs), np.float64) - np.asarray(penalties, np.float64)
        return np.where([bool(output) for output in outputs], np.maximum(scores, SCORE_FLOOR), SCORE_FLOOR)

    def _penalty(self, text: str, output: str) -> float:
        config = self.config
        surplus = max(length_in_words(output) - config.free_words, 0)
        return config.copy_penalty * copied_fraction(output, text) + config.length_penalty * surplus


def check_here(config: GoldConfig) -> None:
    """Raises UserError if the encoder is not to be found."""
    if config.encoder != LEXICAL:
        from rlhf_jax.encoders.sentence import find_encoder

        find_encoder(config.encoder)


def make_scorer(config: GoldConfig) -> Scorer:
    """Makes the gold scorer of a config: `(texts, outputs) -> [n] float64 scores`.

    Raises:
      UserError: the encoder is missing.
    """
    if config.encoder == LEXICAL:
        return GoldScorer(lexical_similarity, config)
    from rlhf_jax.encoders.sentence import load_encoder

    return GoldScorer(embedding_similarity(load_encoder(config.encoder)), config)


def embedding_similarity(encoder: Encoder) -> Similarity:
    """Returns the cosine of sentence embeddings. Every distinct text is encoded once."""
    encode = EncodeOnce(encoder)

    def similarity(texts: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
        vectors = encode([*texts, *outputs]).astype(np.float64)
        return (vectors[: len(texts)] * vectors[len(texts) :]).sum(axis=1)

    return similarity


def lexical_similarity(texts: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
    """Returns `[n]` cosines of the counts of letter trigrams, in lower case. 0 if one side has none.

    It replaces an encoder if there is no model, as in tests. It distinguishes even the outputs of a random model.
    """
    return np.array([_count_cosine(text, output) for text, output in zip(texts, outputs, strict=True)])


def _count_cosine(text: str, output: str) -> float:
    a, b = (Counter(side[i : i + 3] for i in range(len(side) - 2)) for side in (text.lower(), output.lower()))
    product = sum(count * b[trigram] for trigram, count in a.items())
    return product / math.sqrt(sum(c * c for c in a.values()) * sum(c * c for c in b.values())) if product else 0.0
