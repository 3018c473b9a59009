import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.encoders.cached import EncodeOnce
from rlhf_jax.errors import UserError
from rlhf_jax.metrics.diversity import (
    across_input,
    across_input_of_pairs,
    distinct_n,
    expectation_adjusted_distinct,
    mean_distinct,
    ngram_cosine_diversity,
    pairwise_similarity_diversity,
    per_input,
)
from rlhf_jax.metrics.statistics import bootstrap_interval
from tests import tiny

V = 50257


def ead(distinct: int, total: int) -> float:
    return distinct / (V * (1 - ((V - 1) / V) ** total))


def unit_vectors(texts: list[str]) -> np.ndarray:
    """A fixed pseudo-random direction a text."""
    vectors = np.array([np.random.default_rng(list(text.encode())).normal(size=8) for text in texts])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_ead_equals_counts_made_by_hand():
    outputs = ["the cat sat", "the dog sat"]
    expected = [ead(4, 6), ead(4, 4), ead(2, 2)]  # the, cat, dog, sat. Four bigrams. Two trigrams
    assert expectation_adjusted_distinct(outputs, (1, 2, 3)) == pytest.approx(np.mean(expected), rel=1e-9)


@pytest.mark.parametrize("mode", ["default", "paper"])
def test_ead_of_k_identical_outputs_is_about_one_over_k(mode):
    outputs = ["returns the inverse of a square matrix by elimination"] * 16
    assert expectation_adjusted_distinct(outputs, mode=mode) == pytest.approx(1 / 16, rel=2e-3)


def test_ead_can_pass_one():
    words = [f"w{i}" for i in range(15_000)]
    assert expectation_adjusted_distinct([" ".join(words)], (1,)) == pytest.approx(1.16, abs=0.01)


def test_ngrams_do_not_cross_outputs_and_case_counts():
    assert distinct_n(["a b", "c d"], 2) == 1.0
    assert distinct_n(["a b", "a b"], 2) == 0.5
    assert distinct_n(["A", "a", "a,", "a"], 1) == 0.75


def test_paper_mode_joins_the_words_around_dots_and_line_breaks():
    text = "one.two\nthree  four"
    assert distinct_n([text, "one two three four"], 1, "default") == 0.5
    assert distinct_n([text, "onetwothree four"], 1, "paper") == 0.5
    assert distinct_n([text, "one two three four"], 1, "paper") == 5 / 6


def test_too_long_ngrams_count_as_zero_in_paper_mode_only():
    for mode, counted in (("paper", 4), ("default", 2)):
        found = expectation_adjusted_distinct(["a b", "c d"], (1, 2, 3, 4), mode=mode)
        assert found == pytest.approx((ead(4, 4) + ead(2, 2)) / counted)


@pytest.mark.parametrize("mode", ["default", "paper"])
@pytest.mark.parametrize("outputs", [[], [""], ["", " \n"], ["."]])
def test_without_words_diversity_is_zero(outputs, mode):
    assert expectation_adjusted_distinct(outputs, mode=mode) == 0.0
    assert distinct_n(outputs, 2, mode) == 0.0


def test_an_empty_output_adds_nothing():
    assert expectation_adjusted_distinct(["a b c", ""]) == expectation_adjusted_distinct(["a b c"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"mode": "Paper"}, "Paper"),
        ({"ngrams": ()}, "ngrams"),
        ({"ngrams": (0, 1)}, "0"),
        ({"vocabulary_size": 1}, "1"),
    ],
)
def test_ead_refuses_bad_settings(arguments, named):
    with pytest.raises(UserError, match=named):
        expectation_adjusted_distinct(["a b"], **arguments)


def test_pairwise_equals_every_pair():
    texts = [f"text {i % 7}" for i in range(20)]
    vectors = unit_vectors(texts).astype(np.float64)
    cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in itertools.combinations(vectors, 2)]
    assert pairwise_similarity_diversity(texts, unit_vectors) == pytest.approx(1 - math.fsum(cosines) / 190, abs=1e-12)


def test_pairwise_does_not_cancel():
    assert pairwise_similarity_diversity(["same"] * 500, unit_vectors) == pytest.approx(0, abs=1e-15)
    angle = 1e-6
    tilted = np.array([[1, 0], [math.cos(angle), math.sin(angle)]])
    assert pairwise_similarity_diversity(["a", "b"], lambda _: tilted) == pytest.approx(angle**2 / 2, rel=1e-6)


def test_pairwise_does_not_depend_on_the_length_of_vectors():
    texts = ["a", "b", "c"]
    scaled = unit_vectors(texts) * np.array([[1], [5], [0.1]])
    expected = pairwise_similarity_diversity(texts, unit_vectors)
    assert pairwise_similarity_diversity(texts, lambda _: scaled) == pytest.approx(expected, rel=1e-6)


def test_a_zero_vector_is_orthogonal_to_every_other():
    vectors = np.array([[1.0, 0], [1, 0], [0, 0]])
    assert pairwise_similarity_diversity(["a", "b", ""], lambda _: vectors) == pytest.approx(1 - 1 / 3)


@pytest.mark.parametrize("returned", [np.ones((2, 3)), np.ones(3), np.full((3, 2), np.nan)])
def test_pairwise_refuses_a_single_output_and_what_is_not_one_vector_a_text(returned):
    with pytest.raises(UserError, match="expected 3 finite vectors"):
        pairwise_similarity_diversity(["a", "b", "c"], lambda _: returned)
    with pytest.raises(UserError, match="expected two or more"):
        pairwise_similarity_diversity(["a"], unit_vectors)


def test_encode_once_encodes_each_text_once_and_keeps_the_order():
    seen = []
    encoder = EncodeOnce(lambda texts: seen.extend(texts) or unit_vectors(texts))
    for texts in (["a", "b", "a"], ["c", "b"], ["a"]):
        np.testing.assert_array_equal(encoder(texts), unit_vectors(texts))
    assert seen == ["a", "b", "c"]


def test_per_input_is_the_mean_over_inputs_with_its_standard_error():
    result = per_input([["a a", "a a"], ["a b", "c d"], ["a b", "a b"]], lambda texts: distinct_n(texts, 1))
    values = [0.25, 1.0, 0.5]
    assert result["interval"] == list(bootstrap_interval(values))
    del result["interval"]
    assert result == {"mean": np.mean(values), "standard_error": np.std(values, ddof=1) / np.sqrt(3), "n": 3}
    assert per_input([["a", "b"]], len) == {"mean": 2.0, "standard_error": None, "n": 1, "interval": None}


def test_per_input_takes_records():
    outputs = [["a a", "a b"], ["b", "c"]]
    metric = expectation_adjusted_distinct
    assert per_input([tiny.samples("a", texts) for texts in outputs], metric) == per_input(outputs, metric)


def test_across_input_takes_one_output_an_input():
    picked = []
    across_input([["a", "x"], ["b", "y"]], lambda texts: picked.append(texts) or 0.0)
    pools = [tiny.samples("a", ["x", "a"], selected=1), tiny.samples("b", ["b", "y"], selected=0)]
    across_input(pools, lambda texts: picked.append(texts) or 0.0)
    assert picked == [["a", "b"], ["a", "b"]]


def test_across_input_error_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=20)
    result = across_input([[str(value)] for value in values], lambda texts: float(np.mean([float(t) for t in texts])))
    assert result["mean"] == pytest.approx(values.mean())
    assert result["standard_error"] == pytest.approx(values.std(ddof=1) / np.sqrt(20), rel=1e-9)
    assert result["n"] == 20


def test_across_input_error_is_near_the_spread_over_draws_and_the_interval_covers_their_mean():
    rng = np.random.default_rng(1)
    draws = [[[" ".join(map(str, words))] for words in rng.zipf(1.5, (40, 8))] for _ in range(60)]
    results = [across_input(draw, lambda texts: distinct_n(texts, 1)) for draw in draws]
    means = np.array([result["mean"] for result in results])
    assert np.mean([result["standard_error"] for result in results]) == pytest.approx(np.std(means), rel=0.35)
    low, high = np.array([result["interval"] for result in results]).T
    assert np.mean((low <= means.mean()) & (means.mean() <= high)) >= 0.9
    assert np.mean(high - low) < 2 * 1.96 * 1.5 * np.std(means)


@pytest.mark.parametrize("count", [40, 41])
def test_across_input_interval_of_a_mean_is_the_normal_one(count):
    values = np.random.default_rng(0).normal(size=count)
    mean_of = lambda texts: float(np.mean([float(text) for text in texts]))  # noqa: E731
    low, high = across_input([[str(value)] for value in values], mean_of)["interval"]
    half_width = 1.96 * values.std(ddof=1) / np.sqrt(count)
    assert [low, high] == pytest.approx([values.mean() - half_width, values.mean() + half_width], abs=0.15 * half_width)
    assert across_input([[str(value)] for value in values], mean_of)["interval"] == [low, high]
    assert across_input([[str(value)] for value in values], mean_of, seed=1)["interval"] != [low, high]


def test_across_input_of_pairs_is_across_input_of_their_mean():
    texts = ["x" * length for length in np.random.default_rng(0).integers(1, 50, 30)]

    def differences(found):
        pairs = np.array(list(itertools.combinations(range(len(found)), 2)))
        return pairs, np.array([abs(len(found[i]) - len(found[j])) for i, j in pairs], float)

    inputs = [[text] for text in texts]
    expected = across_input(inputs, lambda found: float(differences(found)[1].mean()))
    result = across_input_of_pairs(inputs, differences)
    assert result.pop("interval") == pytest.approx(expected.pop("interval"))
    assert result == pytest.approx(expected)


def test_across_input_of_too_few_pairs_has_neither_error_nor_interval():
    result = across_input_of_pairs([["a"], ["b"], ["c"], ["d"]], lambda _: (np.array([[0, 1]]), np.array([0.5])))
    assert result == {"mean": 0.5, "standard_error": None, "n": 4, "interval": None}


def test_across_input_of_few_inputs_has_no_error_or_no_interval():
    metric = lambda texts: pairwise_similarity_diversity(texts, unit_vectors)  # noqa: E731
    assert across_input([["a"], ["b"]], metric)["standard_error"] is None
    three = across_input([["a"], ["b"], ["c"]], lambda texts: 1.0)
    assert (three["standard_error"], three["interval"]) == (0.0, None)
    low, high = across_input([["a"], ["b"], ["c"], ["d"]], metric)["interval"]
    assert low < high


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ([], "0 input"),
        ([["a"], []], "1 of them without outputs"),
        ([["a", "b"], ["a"]], "from 1 to 2"),
        ([tiny.samples("a", ["a", "b"], selected=0)], "best-of-N"),
    ],
)
def test_per_input_refuses_uneven_or_missing_outputs_and_the_pool_of_best_of_n(inputs, named):
    with pytest.raises(UserError, match=named):
        per_input(inputs, expectation_adjusted_distinct)


def dense_cosines(texts: list[str], n: int) -> float | None:
    """1 minus the mean cosine by visiting every pair of dense count vectors. None without an n-gram."""
    words = [text.replace(".", " ").split() for text in texts]
    grams = [[tuple(w[i : i + n]) for i in range(len(w) - n + 1)] for w in words]
    vocabulary = sorted({gram for found in grams for gram in found})
    if not vocabulary:
        return None
    vectors = np.array([[found.count(gram) for gram in vocabulary] for found in grams], float)
    norms = np.linalg.norm(vectors, axis=1)
    cosines = []
    for i in range(len(texts)):
        for j in range(i):
            product = norms[i] * norms[j]
            cosines.append(vectors[i] @ vectors[j] / product if product else 0.0)
    return 1 - np.mean(cosines)


@given(st.lists(st.text("ab. ", max_size=8), min_size=2, max_size=5))
@settings(max_examples=80)
def test_ngram_cosine_is_that_of_all_pairs_of_dense_vectors(texts):
    values = [value for n in range(1, 6) if (value := dense_cosines(texts, n)) is not None]
    expected = np.mean(values) if values else 0.0
    assert ngram_cosine_diversity(texts) == pytest.approx(expected, abs=1e-12)


def test_ngram_cosine_of_equal_and_of_foreign_texts():
    assert ngram_cosine_diversity(["a b c"] * 4) == pytest.approx(0.0)
    assert ngram_cosine_diversity(["a b", "c d"]) == pytest.approx(1.0)
    with pytest.raises(UserError, match="got 1 output"):
        ngram_cosine_diversity(["a"])


def test_mean_distinct_leaves_out_what_no_text_has():
    texts = ["a b a", "a b"]
    assert mean_distinct(texts) == pytest.approx(np.mean([2 / 5, 2 / 3, 1.0]))
    assert mean_distinct(["", ""]) == 0.0


def released_words(text: str) -> list[str]:
    """What utils.lines_to_ngrams of the study's released code makes of a text."""
    return [word for word in text.replace(".", "").replace("\n", "").split(" ") if word != ""]


def released_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = released_words(text)
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def released_ead(texts: list[str], n: int) -> float:
    ngrams = [ngram for text in texts for ngram in released_ngrams(text, n)]
    return ead(len(set(ngrams)), len(ngrams)) if ngrams else 0.0


def released_distinct(texts: list[str], n: int) -> float:
    ngrams = [ngram for text in texts for ngram in released_ngrams(text, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def released_cosine(texts: list[str], n: int) -> float:
    """1 minus the mean over pairs. Texts that share no n-gram have similarity 0, also where neither has one."""
    similarities = []
    for a, b in itertools.combinations([released_ngrams(text, n) for text in texts], 2):
        space = sorted({*a, *b})
        x, y = (np.array([ngrams.count(ngram) for ngram in space], float) for ngrams in (a, b))
        similarities.append(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) if set(a) & set(b) else 0.0)
    return 1 - float(np.mean(similarities))


@pytest.mark.parametrize(
    "texts",
    [
        ["Yes", "No", "Yes"],
        ["Yes", "Yes"],
        ["", ""],
        ["", "a b c d e f"],
        [".", "\n", "..."],
        ["one.two\nthree  four", "onetwothree four"],
        ["a b", "a b c", "a b c d e f g"],
        ["a\tb\u00a0c", "a\tb\u00a0c d"],
        ["no no no no no no", "no no"],
        ["Да", "да", "日本語"],
    ],
)
def test_paper_mode_is_the_released_code_also_on_short_texts(texts):
    def mean(metric):
        return pytest.approx(np.mean([metric(texts, n) for n in range(1, 6)]), rel=1e-9, abs=1e-12)

    assert expectation_adjusted_distinct(texts, mode="paper") == mean(released_ead)
    assert mean_distinct(texts, mode="paper") == mean(released_distinct)
    assert ngram_cosine_diversity(texts, mode="paper") == mean(released_cosine)
    assert ngram_cosine_diversity(texts, (3,), mode="paper") == pytest.approx(released_cosine(texts, 3), abs=1e-12)


def test_words_of_scripts_without_spaces_are_characters():
    assert distinct_n(["日本語。日本", "ab cd"], 1) == 6 / 8
    assert distinct_n(["สวัสดี", "สวัสดี"], 1) == 3 / 8  # a consonant with its vowel is a character
    assert distinct_n(["Привет, мир", "Привет, Мир"], 1) == 0.75


REPEATED = [["ha " * int(count)] for count in np.random.default_rng(0).integers(1, 40, 40)]
FOREIGN = [[f"word{index} other{index}"] for index in range(12)]
UNEVEN = [["yes " * 100], *([f"word{index}"] for index in range(39))]
RARE = [["same" if index else "else"] for index in range(20)]


@pytest.mark.parametrize(
    "inputs", [REPEATED, FOREIGN, UNEVEN, RARE, RARE[::-1], REPEATED[:4], [["yes"]] * 9, [[""]] * 5]
)
@pytest.mark.parametrize(
    ("metric", "high"),
    [
        (expectation_adjusted_distinct, 1.2),
        (mean_distinct, 1.0),
        (ngram_cosine_diversity, 1.0),
        (lambda texts: ngram_cosine_diversity(texts, mode="paper"), 1.0),
        (lambda texts: pairwise_similarity_diversity(texts, unit_vectors), 2.0),
    ],
)
def test_across_input_interval_stays_within_the_range_of_the_metric(inputs, metric, high):
    found = across_input(inputs, metric)
    low, up = found["interval"]
    assert -1e-12 <= low <= up <= high + 1e-12
    assert low <= found["mean"] + 1e-3 and found["mean"] - 1e-3 <= up


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_across_input_of_pairs_stays_between_its_values(values):
    pairs = np.array(list(itertools.combinations(range(4), 2)))
    found = across_input_of_pairs([["a"], ["b"], ["c"], ["d"]], lambda texts: (pairs, np.array(values)))
    low, high = found["interval"]
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
