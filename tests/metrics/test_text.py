import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from rlhf_jax.metrics.text import copied_fraction, length_in_words, repetition, rouge_l

TEXT = "Compute the inverse of a matrix, which must be square. The result is dense."


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    # "the cat mat" is common in order: precision 3/4, recall 3/6.
    assert rouge_l("the cat quietly mat", "the cat sat on the mat") == pytest.approx(2 * 0.75 * 0.5 / 1.25)


def test_rouge_l_stems_and_ignores_case():
    assert rouge_l("Computing matrices", "compute matrices") == 1.0


@pytest.mark.parametrize(("output", "reference"), [("", "a b"), ("a b", ""), ("", "")])
def test_rouge_l_of_an_empty_text_is_zero(output, reference):
    assert rouge_l(output, reference) == 0.0


@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)))
def test_rouge_l_of_ascii_is_that_of_rouge_score(output, reference):
    expected = RougeScorer(["rougeL"], use_stemmer=True).score(reference, output)["rougeL"].fmeasure
    assert rouge_l(output, reference) == expected


@pytest.mark.parametrize(
    ("text", "half"),
    [
        ("Привет, мир", "привет"),  # Cyrillic
        ("χαίρε κόσμε", "Χαίρε"),  # Greek
        ("नमस्ते दुनिया", "नमस्ते"),  # Devanagari, with vowel signs
        ("مرحبا بالعالم", "مرحبا"),  # Arabic
        ("안녕 세상", "안녕"),  # Hangul
        ("日本", "日"),  # Han
        ("สวัสดีครับนะ", "สวัสดี"),  # Thai, 4 of 9 consonants
        ("naïve café", "naïve"),  # e and an accent, composed or not
    ],
)
def test_rouge_l_holds_for_every_script(text, half):
    assert rouge_l(text, text) == 1.0
    assert 0.5 < rouge_l(half, text) < 0.8
    assert rouge_l("☃", text) == 0.0


def test_words_of_other_scripts():
    assert length_in_words("日本語 text") == 4
    assert copied_fraction("日本語文", "日本語文。") == 1.0
    assert copied_fraction("нет слов", "Слов нет") == 0.0
    assert repetition("哈哈哈哈哈") == 0.5


def test_length_counts_words():
    assert length_in_words("  two\n words ") == 2
    assert length_in_words(" ") == 0


@pytest.mark.parametrize(
    ("output", "text", "fraction"),
    [
        ("compute the Inverse of a matrix which must be square!", TEXT, 1.0),  # whatever its case and punctuation
        # "compute the inverse of", "the inverse of a", "inverse of a tensor": two of three.
        ("Compute the inverse of a tensor", TEXT, 2 / 3),
        ("Inverts square matrices by elimination", TEXT, 0.0),
        ("the inverse", TEXT, 1.0),  # a short output is one n-gram
        ("inverse the", TEXT, 0.0),
        ("", TEXT, 0.0),
        ("the inverse", "", 0.0),
    ],
)
def test_copied_fraction_counts_four_grams(output, text, fraction):
    assert copied_fraction(output, text) == fraction


def test_repetition_is_the_share_of_ngrams_seen_before():
    assert repetition("a b c d e f") == 0.0
    assert repetition("go on and on go on and on") == pytest.approx(1 / 5)
    assert repetition("no " * 10) == pytest.approx(6 / 7)
    assert repetition("") == repetition("no no no no") == 0.0
