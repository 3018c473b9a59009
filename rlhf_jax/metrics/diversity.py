"""Diversity of a set of texts, within the outputs of one input and across inputs (Kirk et al., 2024, section 3.3).

A *metric* is a function from a list of texts to one number, higher for more diverse sets. `per_input` and
`across_input` apply one to the outputs of a whole test set.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.metrics.statistics import mean_and_interval, percentiles
from rlhf_jax.metrics.text import split_words

if TYPE_CHECKING:
    from rlhf_jax.data.records import Samples

type Mode = Literal["default", "paper"]
type Metric = Callable[[Sequence[str]], float]
type Encoder = Callable[[Sequence[str]], np.ndarray]
"""Texts to their `[n, D]` float32 unit vectors."""

JACKKNIFE_GROUPS = 20
HALF_SAMPLES = 400


def expectation_adjusted_distinct(
    outputs: Sequence[str],
    ngrams: Sequence[int] = (1, 2, 3, 4, 5),
    vocabulary_size: int = 50257,
    mode: Mode = "default",
) -> float:
    """Expectation-adjusted distinct n-grams (EAD), the mean over n of `distinct / (V (1 - ((V - 1) / V) ** total))`.

    The n-grams of all outputs are pooled, and none crosses from one output to the next. V is the same for every n. It
    is the size of GPT-2's vocabulary although the tokens are words, as in the study. K identical outputs score about 1
    / K. The value can pass 1 a little.

    The modes differ in two points. For words, `paper` deletes "." and line breaks, which joins the words around them,
    and splits at spaces. `default` splits at "." and at any white space, and around every character of a script
    without spaces (`text.split_words`). An n longer than every output counts as 0 in `paper`, and `default` leaves it
    out of the mean. In both, outputs without a single n-gram score 0.

    Args:
      outputs: the texts.
      ngrams: the values of n.
      vocabulary_size: V.
      mode: "default" or "paper".

    Raises:
      UserError: unknown mode, no n, an n below 1, or V below 2.
    """
    if vocabulary_size < 2:
        raise UserError(f"vocabulary_size is {vocabulary_size}, expected 2 or more.")
    values = []
    for n in _checked(ngrams):
        distinct, total = _count_ngrams(outputs, n, mode)
        if total:
            expected = -vocabulary_size * math.expm1(total * math.log1p(-1 / vocabulary_size))
            values.append(distinct / expected)
        elif mode == "paper":
            values.append(0.0)
    return math.fsum(values) / len(values) if values else 0.0


def distinct_n(outputs: Sequence[str], n: int, mode: Mode = "default") -> float:
    """Returns the fraction of distinct n-grams among all n-grams (Li et al., 2016), in (0, 1]. 0 without n-grams.

    `mode` chooses the words as in `expectation_adjusted_distinct`.

    Raises:
      UserError: unknown mode or an n below 1.
    """
    [n] = _checked([n])
    distinct, total = _count_ngrams(outputs, n, mode)
    return distinct / total if total else 0.0


def mean_distinct(outputs: Sequence[str], ngrams: Sequence[int] = (1, 2, 3, 4, 5), mode: Mode = "default") -> float:
    """Returns the mean of `distinct_n` over n. An n longer than every output counts as 0 in `paper`, as in EAD."""
    values = [distinct_n(outputs, n, mode) for n in _checked(ngrams)]
    found = [value for value in values if value or mode == "paper"]
    return math.fsum(found) / len(found) if found else 0.0


def ngram_cosine_diversity(
    outputs: Sequence[str], ngrams: Sequence[int] = (1, 2, 3, 4, 5), mode: Mode = "default"
) -> float:
    """1 minus the mean cosine over unordered pairs of texts of their counts of n-grams, the mean over n.

    As in `pairwise_similarity_diversity` no pair is visited: with unit vectors e of n texts the mean cosine is
    `(|sum e|^2 - n) / (n (n - 1))`. A text without an n-gram counts as orthogonal to the others. So in `paper` an n
    longer than every text counts as 1. `default` leaves it out of the mean, and texts without a single n-gram score 0.
    The released script reports n = 3 alone.

    Args:
      outputs: the texts.
      ngrams: the values of n.
      mode: chooses the words as in `expectation_adjusted_distinct`.

    Raises:
      UserError: fewer than two outputs, unknown mode, no n, or an n below 1.
    """
    if len(outputs) < 2:
        raise UserError(f"Pairwise diversity got {len(outputs)} output(s), expected two or more.")
    texts, values = [_words(output, mode) for output in outputs], []
    for n in _checked(ngrams):
        counts = [Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in texts]
        total: dict[tuple[str, ...], float] = defaultdict(float)
        for count in counts:
            norm = math.sqrt(sum(times * times for times in count.values()))
            for ngram, times in count.items():
                total[ngram] += times / norm
        if total:
            units = sum(map(bool, counts))
            square = math.fsum(weight * weight for weight in total.values())
            values.append(1 - (square - units) / (len(texts) * (len(texts) - 1)))
        elif mode == "paper":
            values.append(1.0)
    return math.fsum(values) / len(values) if values else 0.0


def _checked(ngrams: Sequence[int]) -> Sequence[int]:
    if not ngrams or min(ngrams) < 1:
        raise UserError(f"ngrams is {list(ngrams)}, expected one or more lengths of at least 1.")
    return ngrams


def _count_ngrams(outputs: Sequence[str], n: int, mode: Mode) -> tuple[int, int]:
    distinct, total = set(), 0
    for output in outputs:
        words = _words(output, mode)
        distinct.update(zip(*(words[i:] for i in range(n)), strict=False))
        total += max(len(words) - n + 1, 0)
    return len(distinct), total


def _words(text: str, mode: Mode) -> list[str]:
    if mode == "default":
        return split_words(text.replace(".", " "))
    if mode == "paper":
        return [word for word in text.replace(".", "").replace("\n", "").split(" ") if word]
    raise UserError(f'diversity mode is "{mode}", expected "default" or "paper".')


def pairwise_similarity_diversity(outputs: Sequence[str], encoder: Encoder) -> float:
    """1 minus the mean cosine over unordered pairs of texts, in [0, n / (n - 1)]: the study's Sentence-BERT.

    No pair is visited. For unit vectors the value equals their total variance, `sum |e - mean|^2 / (n - 1)`, which is
    exact for similar texts too. A zero vector counts as orthogonal to every other. No encoder here returns one.

    Raises:
      UserError: fewer than two outputs, or an encoder that does not return one finite vector per text.
    """
    if len(outputs) < 2:
        raise UserError(f"Pairwise diversity got {len(outputs)} output(s), expected two or more.")
    vectors = np.asarray(encoder(outputs), np.float64)
    if vectors.ndim != 2 or len(vectors) != len(outputs) or not np.isfinite(vectors).all():
        raise UserError(f"The encoder returned shape {list(vectors.shape)}, expected {len(outputs)} finite vectors.")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    variance = np.square(units - units.mean(axis=0)).sum() / (len(units) - 1)
    return float(variance + np.mean(norms == 0))


def per_input(samples: Sequence[Samples] | Sequence[Sequence[str]], metric: Metric, seed: int = 0) -> dict[str, Any]:
    """Returns the mean over inputs of the metric of their outputs.

    Args:
      samples: records, or one list of outputs per input. All have the same number, since the metrics depend on it.
      metric: a function of a list of texts.
      seed: of the bootstrap over inputs.

    Returns:
      `{"mean", "standard_error", "n", "interval"}` as `mean_and_interval` gives them, n = number of inputs.

    Raises:
      UserError: no input, inputs with different numbers of outputs, or best-of-N records, whose pool is not what the
        policy answers with.
    """
    for record in samples:
        if getattr(record, "selected", None) is not None:
            raise UserError(f'Sample "{record.id}" is best-of-N, expected a record in which no output is selected.')
    outputs = _outputs(samples)
    counts = sorted({len(texts) for texts in outputs})
    if len(counts) > 1:
        raise UserError(
            f"Inputs have from {counts[0]} to {counts[-1]} outputs, expected the same number for every input."
        )
    return mean_and_interval([metric(texts) for texts in outputs], seed)


def across_input(samples: Sequence[Samples] | Sequence[Sequence[str]], metric: Metric, seed: int = 0) -> dict[str, Any]:
    """Returns the metric of one output per input: the first, or the selected one of a best-of-N record.

    A bootstrap would draw inputs twice, and the metrics count repeats. So inputs are only left out. The standard
    error is a jackknife that leaves out one of g = 20 groups of inputs in turn (g = n below 20 inputs):
    `sqrt((g - 1) / g * sum (value_without_group - their mean)^2)`. The 95 % interval has the percentiles of random
    half-samples, drawn without replacement. A mean over half of the inputs is as far from that over all as that is
    from the truth (Wu, 1990; Politis and Romano, 1994). The metrics depend on the size of a set, so the halves are
    moved to have the value of the whole as their mean. They stay within the range of the metric (`_centred`).

    Args:
      samples: records, or one list of outputs per input.
      metric: a function of a list of texts.
      seed: of the half-samples.

    Returns:
      `{"mean", "standard_error", "n", "interval"}`: the metric of the whole set, its error (None below three inputs),
      the number of inputs, and `[low, high]` (None below four).

    Raises:
      UserError: no input, or an input without outputs.
    """
    first = [texts[0] for texts in _outputs(samples)]
    return _across(len(first), lambda kept: metric(list(itertools.compress(first, kept))), seed)


def across_input_of_pairs(
    samples: Sequence[Samples] | Sequence[Sequence[str]],
    pair_values: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]],
    seed: int = 0,
) -> dict[str, Any]:
    """`across_input` of a metric that is a mean over pairs. Each pair is computed once.

    Args:
      samples: records, or one list of outputs per input.
      pair_values: a list of texts to `(pairs [M, 2], values [M])`. Some pairs may be missing.
      seed: of the half-samples.

    Returns:
      As `across_input`. Error and interval are None if no pair is left without some inputs.

    Raises:
      UserError: no input, or an input without outputs.
    """
    first = [texts[0] for texts in _outputs(samples)]
    pairs, values = pair_values(first)

    def value(kept: np.ndarray) -> float:
        found = values[kept[pairs].all(axis=1)]
        return float(found.mean()) if len(found) else math.nan

    return _across(len(first), value, seed)


def _across(inputs: int, value: Callable[[np.ndarray], float], seed: int) -> dict[str, Any]:
    """`across_input` of `value(kept)`: the metric, or NaN, of the inputs where `kept`, `[inputs]` bool, is True."""
    mean = value(np.ones(inputs, bool))
    error, interval = math.nan, (math.nan, math.nan)
    if inputs > 2:
        groups = min(inputs, JACKKNIFE_GROUPS)
        without = [value(np.arange(inputs) % groups != group) for group in range(groups)]
        error = float(np.sqrt((groups - 1) * np.var(without)))
    if inputs > 3:
        rng, half = np.random.default_rng(seed), inputs // 2
        halves = np.array([value(rng.permutation(inputs) < half) for _ in range(HALF_SAMPLES)])
        around = mean + (_centred(halves, mean) - mean) * math.sqrt(half / (inputs - half))
        interval = tuple(map(float, percentiles(around, 0.95)))
    return {
        "mean": mean,
        "standard_error": None if math.isnan(error) else error,
        "n": inputs,
        "interval": None if math.isnan(sum(interval)) else list(interval),
    }


def _centred(values: np.ndarray, mean: float) -> np.ndarray:
    """Moves values of random halves to the mean of the whole, within the range of the metric.

    If their own mean differs by no more than chance, the metric does not depend on the size of a set, and they stay.
    If the metric falls with size, they move down. Then those above their mean stay below where they were. The distance
    of the others is bent, `room (1 - exp(-distance / room))`, so that they do not pass 0, or the lowest value if that
    is lower. No metric here grows with size. One that did would have no known bound, and its values are shifted.
    """
    before = values.mean()
    if abs(mean - before) <= 4 * values.std() / math.sqrt(len(values)):
        return values
    if mean > before:
        return values + (mean - before)
    distance, room = np.maximum(before - values, 0.0), max(mean - min(values.min(), 0.0), np.finfo(float).tiny)
    return mean + np.maximum(values - before, 0.0) + room * np.expm1(-distance / room)


def _outputs(samples: Sequence[Samples] | Sequence[Sequence[str]]) -> list[list[str]]:
    outputs = [record.answers(record.outputs) if hasattr(record, "outputs") else list(record) for record in samples]
    if not outputs or not all(outputs):
        empty = outputs.count([])
        raise UserError(f"There are {len(outputs)} input(s), {empty} of them without outputs, expected one or more.")
    return outputs
