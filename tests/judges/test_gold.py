import dataclasses

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.judges.gold import (
    SCORE_FLOOR,
    GoldConfig,
    GoldScorer,
    embedding_similarity,
    lexical_similarity,
    make_scorer,
)

TEXT = "Solve a linear system whose matrix is banded. The bands are stored as rows, upper bands first."
CONFIG = GoldConfig("lexical", copy_penalty=0.25, free_words=6, length_penalty=0.1)


def score(output: str, text: str = TEXT, config: GoldConfig = CONFIG) -> float:
    [value] = make_scorer(config)([text], [output])
    return value


def test_the_score_is_the_equation():
    text = "abcdef"  # trigrams abc, bcd, cde, def
    assert score("abcd", text) == pytest.approx(2 / np.sqrt(4 * 2))
    # Trigrams: abc, "bc ", and "c a", " ab" and abc once more a word. Seven words are one beyond the free ones.
    similarity = 7 / np.sqrt(4 * (7**2 + 3 * 6**2))
    assert score(" ".join(["abc"] * 7), text) == pytest.approx(similarity - 0.1)


def test_copying_costs_its_share():
    similarity = lambda texts, outputs: np.zeros(len(texts))  # noqa: E731
    scorer = GoldScorer(similarity, dataclasses.replace(CONFIG, free_words=100))
    outputs = ["Solve a linear system whose matrix is banded", "Solve a linear system by elimination", "Something else"]
    np.testing.assert_allclose(scorer([TEXT] * 3, outputs), [-0.25, -0.25 / 3, 0])


def test_length_costs_beyond_the_free_words_only():
    scores = [score("0123 " * words) for words in (1, 6, 7, 9)]
    np.testing.assert_allclose(scores, [0, 0, -0.1, -0.3], atol=1e-12)


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_nothing_scores_below_an_empty_output(empty):
    assert score(empty) == SCORE_FLOOR
    assert score("word " * 500) == SCORE_FLOOR
    assert score("word") > SCORE_FLOOR


def test_white_space_around_an_output_does_not_count():
    assert score(" Banded linear solver\n") == score("Banded linear solver")


def test_scores_do_not_depend_on_what_is_scored_beside():
    outputs = ["Banded solver", "", "Solve a linear system whose matrix is banded"]
    together = make_scorer(CONFIG)([TEXT] * 3, outputs)
    assert together.dtype == np.float64
    assert together.tolist() == [score(output) for output in outputs]


def test_lexical_similarity_is_a_cosine():
    # abcd has the trigrams abc and bcd, abc one of them.
    texts = ["Alpha beta", "abcd", "alpha", "alpha", "of it"]
    outputs = ["alpha BETA", "abc", "gamm", "", "of"]
    np.testing.assert_allclose(lexical_similarity(texts, outputs), [1, 0.5**0.5, 0, 0, 0])


def test_embedding_similarity_encodes_each_text_once():
    seen = []

    def encoder(texts):
        seen.extend(texts)
        return np.array([[1, 0] if text.startswith("a") else [0.6, 0.8] for text in texts], np.float32)

    similarity = embedding_similarity(encoder)
    np.testing.assert_allclose(similarity(["a", "a", "b"], ["a", "b", "b"]), [1, 0.6, 1], rtol=1e-6)
    similarity(["a"], ["b"])
    assert seen == ["a", "b"]


def test_a_missing_encoder_is_a_user_error(tmp_path):
    with pytest.raises(UserError):
        make_scorer(GoldConfig(str(tmp_path / "absent/model/here")))
