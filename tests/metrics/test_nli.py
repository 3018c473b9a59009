"""Diversity by natural language inference: the classifier against its equations, the metric against counts by hand."""

import numpy as np
import pytest

from rlhf_jax.encoders.classifier import load_nli_classifier
from rlhf_jax.errors import UserError
from rlhf_jax.metrics.nli import nli_diversity, sentences
from tests.encoders.test_sentence import NAMES, WIDTH, WORDS, hidden_states, random_tensors, write_folder

LABELS = {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"}
HEADS = {"bert": ("pooler.dense", "classifier"), "roberta": ("classifier.dense", "classifier.out_proj")}
HEADS["mpnet"] = HEADS["roberta"]


def classifier_tensors(family: str) -> dict[str, np.ndarray]:
    """The network's tensors as they are published beside a head, and the head's own."""
    rng = np.random.default_rng(1)
    pooler, last = HEADS[family]
    prefix = f"{family}."
    tensors = {f"{prefix}{name}": tensor for name, tensor in random_tensors(family).items()}
    pooler = f"{prefix}{pooler}" if family == "bert" else pooler
    for name, outputs in ((pooler, WIDTH), (last, 3)):
        tensors[f"{name}.weight"] = rng.normal(size=(outputs, WIDTH)).astype(np.float32) * 0.5
        tensors[f"{name}.bias"] = rng.normal(size=outputs).astype(np.float32)
    return tensors


def head_logits(family: str, ids: list[int], segments: list[int]) -> np.ndarray:
    """The network and the head of `classifier_tensors` on one text or pair, in float64."""
    tensors = {name: value.astype(np.float64) for name, value in classifier_tensors(family).items()}
    pooler, last = (next(n for n in tensors if n.endswith(f"{name}.weight"))[:-7] for name in HEADS[family])
    state = hidden_states(random_tensors(family), family, ids, segments)[0]
    pooled = np.tanh(state @ tensors[f"{pooler}.weight"].T + tensors[f"{pooler}.bias"])
    return pooled @ tensors[f"{last}.weight"].T + tensors[f"{last}.bias"]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    def write(family: str, labels=LABELS):
        folder = tmp_path_factory.mktemp(family) / "model"
        return write_folder(folder, family, classifier_tensors(family), id2label=labels)

    return write


def test_sentences_end_in_other_scripts_too():
    assert sentences("これは。本当？はい") == ["これは。", "本当？", "はい"]
    assert sentences("यह है। सच? हाँ") == ["यह है।", "सच?", "हाँ"]
    assert sentences("هل هذا؟ نعم.") == ["هل هذا؟", "نعم."]


@pytest.mark.parametrize("family", NAMES)
def test_probabilities_equal_the_equations_in_float64(folder_of, family):
    pairs = [("w1 w2", "w3"), ("w3", "w1 w2"), ("w4 " * 10, "w5 w6 w7"), ("", "w9")]
    found = load_nli_classifier(str(folder_of(family)))(pairs)
    for (first, second), probabilities in zip(pairs, found, strict=True):
        a, b = ([WORDS.index(word) for word in text.split()] for text in (first, second))
        cls, sep = WORDS.index("[CLS]"), WORDS.index("[SEP]")
        ids, segments = [cls, *a, sep, *b, sep], [0] * (len(a) + 2) + [1] * (len(b) + 1)
        logits = head_logits(family, ids, segments)
        np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), atol=1e-5)


def test_the_labels_order_is_the_models_own(folder_of):
    pairs = [("w1 w2", "w3"), ("w4", "w5")]
    usual = load_nli_classifier(str(folder_of("bert")))(pairs)
    labels = {"0": "entailment", "1": "neutral", "2": "contradiction"}
    turned = load_nli_classifier(str(folder_of("bert", labels)))(pairs)
    np.testing.assert_array_equal(turned, usual[:, ::-1])


def test_what_is_no_such_classifier_is_refused(folder_of, tmp_path):
    with pytest.raises(UserError, match="has the labels good, bad, expected contradiction, neutral, entailment"):
        load_nli_classifier(str(folder_of("bert", {"0": "good", "1": "bad"})))
    headless = write_folder(tmp_path / "model", "roberta", random_tensors("roberta"), id2label=LABELS)
    with pytest.raises(UserError, match="has no classifier.dense, expected a sequence classifier"):
        load_nli_classifier(str(headless))


class Certain:
    """Equal texts entail each other, others contradict, and "?" is neutral to all. Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, pairs):
        self.asked += pairs
        rows = {"contradiction": [1.0, 0.0, 0.0], "neutral": [0.1, 0.8, 0.1], "entailment": [0.0, 0.0, 1.0]}
        return np.array(
            [rows["neutral" if "?" in a + b else "entailment" if a == b else "contradiction"] for a, b in pairs]
        )


def test_equal_texts_and_contradictions_are_the_ends_of_the_scale():
    """Invariant 17."""
    assert nli_diversity(["a"] * 4, Certain(), mode="paper") == -2.0
    assert nli_diversity(["a"] * 4, Certain()) == -1.0
    assert nli_diversity(["a", "b", "c"], Certain(), mode="paper") == 2.0
    assert nli_diversity(["a", "b", "c"], Certain()) == 1.0
    assert nli_diversity(["a", "?"], Certain()) == 0.0


def test_a_value_is_the_likeliest_labels_probability_and_the_mean_is_over_pairs_of_texts():
    """Three pairs of texts: (a, a) entails at 1, twice (a, b c) with one of its two sentences each."""

    def classifier(pairs):
        return np.array([[0.6, 0.3, 0.1] if "b" in a + b else [0.0, 0.2, 0.8] for a, b in pairs])

    assert nli_diversity(["a", "a"], classifier) == pytest.approx(-0.8)
    assert nli_diversity(["a", "a", "b. c."], classifier) == pytest.approx((-0.8 + 2 * (0.6 - 0.8) / 2) / 3)


def test_both_orders_of_every_pair_of_sentences_are_asked_once():
    classifier = Certain()
    nli_diversity(["a. b.", "c"], classifier)
    assert sorted(classifier.asked) == sorted([("a.", "c"), ("c", "a."), ("b.", "c"), ("c", "b.")])


def test_draws_are_limited_and_come_from_the_seed():
    texts = [" ".join(f"s{i}{j}." for j in range(4)) for i in range(5)]
    asked = []
    for seed in (0, 0, 1):
        classifier = Certain()
        nli_diversity(texts, classifier, samples=3, largest=6, seed=seed)
        asked.append(classifier.asked)
        assert len(classifier.asked) == 6 * 3 * 2
    assert asked[0] == asked[1] != asked[2]


def test_sentences():
    assert sentences("Is it? Yes! See v. 1.2 of it.\nA list") == ["Is it?", "Yes!", "See v.", "1.2 of it.", "A list"]
    assert sentences(" \n") == [""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": ["a"]}, "got 1 output"),
        ({"outputs": ["a", "b"], "mode": "sum"}, 'mode is "sum"'),
        ({"outputs": ["a", "b"], "samples": 0}, "samples is 0"),
        ({"outputs": ["a", "b"], "classifier": lambda pairs: np.zeros((1, 3))}, r"shape \[1, 3\], expected \[2, 3\]"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        nli_diversity(**{"classifier": Certain(), **arguments})
