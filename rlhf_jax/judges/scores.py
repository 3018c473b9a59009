"""Judges that score each output. The higher score wins a comparison.

All return scores by side and prompt: `scores[side, id]` is `[n]` float64, one per judged output of a record. A side
is a model or, if the judge can score the human summaries, "reference".
"""

from collections.abc import Mapping, Sequence

import numpy as np

from rlhf_jax.data.formats import source_text
from rlhf_jax.data.records import REFERENCE, Samples
from rlhf_jax.errors import UserError
from rlhf_jax.judges.gold import Scorer, Similarity, embedding_similarity
from rlhf_jax.metrics.text import rouge_l

ROUGE_L = "rouge_l"

type Scores = dict[tuple[str, str], np.ndarray]


def gold_scores(samples: Mapping[str, Sequence[Samples]], scorer: Scorer) -> Scores:
    """Scores by prompt and output. Each pair of them is scored once."""
    sides = {
        (side, record.id): (record.prompt, outputs)
        for model, records in samples.items()
        for record in records
        for side, outputs in ((REFERENCE, [record.reference]), (model, record.answers(record.outputs)))
    }
    pairs = list(dict.fromkeys((prompt, output) for prompt, outputs in sides.values() for output in outputs))
    found = scorer([source_text(prompt) for prompt, _ in pairs], [output for _, output in pairs])
    table = dict(zip(pairs, found, strict=True))
    return {
        side: np.array([table[prompt, output] for output in outputs], np.float64)
        for side, (prompt, outputs) in sides.items()
    }


def reward_scores(samples: Mapping[str, Sequence[Samples]]) -> Scores:
    """Scores by the rewards in the samples. The human summaries have none.

    Raises:
      UserError: a record without rewards.
    """
    scores = {}
    for model, records in samples.items():
        for record in records:
            if record.rewards is None:
                raise UserError(f'The samples of "{model}" have no rewards at "{record.id}", expected one an output.')
            scores[model, record.id] = np.array(record.answers(record.rewards), np.float64)
    return scores


def similarity_scores(samples: Mapping[str, Sequence[Samples]], similarity: str) -> Scores:
    """Scores by similarity to the human summary, which gets no score: it could not lose against itself.

    Args:
      samples: each model's records.
      similarity: "rouge_l" (F-measure), or a sentence encoder as `load_encoder` takes it (cosine).

    Raises:
      UserError: the encoder is missing.
    """
    compare = _rouge if similarity == ROUGE_L else _cosine(similarity)
    sides = [(model, record) for model, records in samples.items() for record in records]
    outputs = [record.answers(record.outputs) for _, record in sides]
    references = [record.reference for (_, record), found in zip(sides, outputs, strict=True) for _ in found]
    values = compare([output for found in outputs for output in found], references)
    parts = np.split(values, np.cumsum([len(found) for found in outputs])[:-1])
    return {(model, record.id): part for (model, record), part in zip(sides, parts, strict=True)}


def check_here(similarity: str) -> None:
    """Raises UserError if the encoder is not to be found."""
    if similarity != ROUGE_L:
        from rlhf_jax.encoders.sentence import find_encoder

        find_encoder(similarity)


def _rouge(outputs: Sequence[str], references: Sequence[str]) -> np.ndarray:
    return np.array([rouge_l(*pair) for pair in zip(outputs, references, strict=True)], np.float64)


def _cosine(encoder: str) -> Similarity:
    from rlhf_jax.encoders.sentence import load_encoder

    return embedding_similarity(load_encoder(encoder))
