"""How long diversity takes: EAD and Sentence-BERT of 500 prompts with 16 outputs each, against encoding every pair.

    .venv/bin/python benchmarks/diversity.py

The texts are drawn from the words of this project's docs, 6 to 40 each, as summaries are. The other side is what the
study's released code does: for every pair of outputs it encodes both texts anew. It is measured on some pairs with the
same network and scaled to all of them, which the output says. A batch there has the pair alone, without the rows of
filler that keep our batches at few shapes.
"""

import argparse
import itertools
import re
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rlhf_jax import assets
from rlhf_jax.encoders.bert import batches
from rlhf_jax.encoders.cached import EncodeOnce
from rlhf_jax.encoders.sentence import SentenceEncoder
from rlhf_jax.metrics.diversity import expectation_adjusted_distinct, pairwise_similarity_diversity, per_input

DOCS = Path(__file__).parents[1] / "docs"
PROMPTS, OUTPUTS = 500, 16


class AsGiven(SentenceEncoder):
    """The encoder with batches of no more rows than there are texts."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.empty((len(texts), self._width), np.float32)
        for batch in batches(self._tokenizer.encode_batch(list(texts))):
            count = len(batch.rows)
            arrays = (array[:count] for array in (batch.tokens, batch.segments, batch.mask))
            vectors[batch.rows] = self._embed(self._params, *arrays)
        return vectors


def texts(rng: np.random.Generator) -> list[list[str]]:
    """`[PROMPTS][OUTPUTS]` texts. The outputs of one prompt share half of their words."""
    pages = "".join(path.read_text() for path in sorted(DOCS.glob("*.md")))
    words = np.array(re.findall(r"[a-z]{2,}", pages.lower()))
    found = []
    for _ in range(PROMPTS):
        subject = rng.choice(words, 20)
        halves = [rng.choice(words, rng.integers(3, 21)) for _ in range(OUTPUTS)]
        found.append([" ".join(rng.permutation(np.concatenate([half, subject[: len(half)]]))) for half in halves])
    return found


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=600, help="pairs that are encoded one by one")
    arguments = parser.parse_args()
    outputs = texts(np.random.default_rng(0))
    encoder, as_given = (kind(assets.resolve(assets.MINILM)) for kind in (SentenceEncoder, AsGiven))
    some = [text for found in outputs[:40] for text in found]
    encoder(some)  # compiles each length once
    for text in sorted(some, key=len)[::20]:
        as_given([text]), as_given([text, text])
    ead = seconds(lambda: per_input(outputs, expectation_adjusted_distinct))

    def sentence_bert() -> None:
        once = EncodeOnce(encoder)
        once([text for found in outputs for text in found])
        per_input(outputs, lambda found: pairwise_similarity_diversity(found, once))

    bert = seconds(sentence_bert)
    every = [pair for found in outputs for pair in itertools.combinations(found, 2)]
    pairs = every[:: len(every) // arguments.sample][: arguments.sample]
    pairwise = seconds(lambda: [as_given(pair) for pair in pairs])
    whole = pairwise / len(pairs) * len(every)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"EAD of {PROMPTS} x {OUTPUTS} outputs: {ead:.2f} s")
    print(f"Sentence-BERT of the same, each text encoded once: {bert:.1f} s ({PROMPTS * OUTPUTS / bert:,.0f} texts/s)")
    print(f"every pair encoded: {pairwise:.1f} s for {len(pairs)} of {len(every):,} pairs, so {whole:,.0f} s for all")
    print(f"EAD and Sentence-BERT together: {whole / (ead + bert):.0f} times as fast; peak memory {memory:.2f} GB")


if __name__ == "__main__":
    main()
