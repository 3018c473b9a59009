"""Sentiment by a small classifier on disk. Its equations are tested by `test_nli.py`."""

import pytest

from rlhf_jax.encoders.classifier import load_sentiment
from rlhf_jax.errors import UserError
from tests.encoders.test_sentence import ids, numbered, write_folder
from tests.metrics.test_nli import classifier_tensors, head_logits

LABELS = {"0": "negative", "1": "neutral", "2": "Positive"}


@pytest.mark.parametrize("family", ["bert", "mpnet"])  # a random RoBERTa of this size says the same of all texts
def test_a_text_is_positive_where_no_label_is_likelier(tmp_path, family):
    """The head's arithmetic in float64 on one text at a time."""
    folder = write_folder(tmp_path / "model", family, classifier_tensors(family), id2label=LABELS)
    texts = numbered(60, 5, seed=1) + ["", "w1 " * 100]
    found = load_sentiment(str(folder))(texts)
    for text, positive in zip(texts, found, strict=True):
        tokens = ids(text)
        logits = head_logits(family, tokens, [0] * len(tokens))
        assert positive == (logits[2] == max(logits))
    assert 0 < sum(found) < len(texts)


def test_a_classifier_of_something_else_is_refused(tmp_path):
    labels = {"0": "joy", "1": "anger", "2": "fear"}
    folder = write_folder(tmp_path / "model", "bert", classifier_tensors("bert"), id2label=labels)
    with pytest.raises(UserError, match=r"config.json has the labels joy, anger, fear, expected positive among them"):
        load_sentiment(str(folder))
