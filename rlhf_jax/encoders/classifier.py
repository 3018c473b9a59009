"""Sequence classifiers: published folders of BERT, RoBERTa or MPNet with a head for labels, on the host CPU."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import assets
from rlhf_jax.encoders.bert import FAMILIES, Bidirectional, Folder, run_batches
from rlhf_jax.errors import UserError
from rlhf_jax.metrics.nli import LABELS, Classifier

POSITIVE = "positive"


class SequenceClassifier:
    """Classifies texts or pairs of texts.

    Args:
      path: a published folder, as `bert.Folder` reads it. Its config names the labels (`id2label`).

    Attributes:
      labels: in lower case, in the order of the probabilities.

    Raises:
      UserError: a file is missing, or describes another architecture or not a classifier.
    """

    def __init__(self, path: Path) -> None:
        folder = Folder(path)
        family = FAMILIES[folder.config.family]
        named = {int(index): label.lower() for index, label in folder.json.get("id2label", {}).items()}
        self.labels = [named[index] for index in sorted(named)]
        for name in (family.pooler, family.classifier):
            if f"{name}.weight" not in folder.tensors:
                raise UserError(f"{path / 'model.safetensors'} has no {name}, expected a sequence classifier.")
        self._tokenizer = folder.tokenizer
        head = {"pooler": folder.dense(family.pooler), "classifier": folder.dense(family.classifier)}
        cpu = jax.local_devices(backend="cpu")[0]
        self._params = jax.device_put({"network": folder.params(), "head": head}, cpu)
        self._classify = jax.jit(functools.partial(_classify, Bidirectional(folder.config)))

    def __call__(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> np.ndarray:
        """Returns probabilities `[n, labels]` float32, in the order of the texts. Longer texts are truncated."""
        classify = functools.partial(self._classify, self._params)
        return run_batches(self._tokenizer, texts, len(self.labels), lambda b: classify(b.tokens, b.segments, b.mask))


def _classify(
    network: Bidirectional, params: Mapping[str, Any], tokens: jax.Array, segments: jax.Array, mask: jax.Array
) -> jax.Array:
    """Applies a tanh layer and a linear one to the first token's state, as all three families do."""

    def dense(name: str, x: jax.Array) -> jax.Array:
        return x @ params["head"][name]["kernel"] + params["head"][name]["bias"]

    first = network.apply({"params": params["network"]}, tokens, segments, mask)[:, 0]
    return jax.nn.softmax(dense("classifier", jnp.tanh(dense("pooler", first))))


def load_sentiment(name: str) -> Callable[[Sequence[str]], np.ndarray]:
    """Loads a sentiment classifier, by a name for `assets.resolve`.

    It maps texts to `[n]` bool, True if "positive" is the likeliest label.

    Raises:
      UserError: the model is missing (the message says how to get it), cannot be read by `SequenceClassifier`, or
        has no label "positive".
    """
    path = assets.resolve(name)
    classifier = SequenceClassifier(path)
    if POSITIVE not in classifier.labels:
        raise UserError(
            f"{path / 'config.json'} has the labels {', '.join(classifier.labels)}, expected {POSITIVE} among them."
        )
    return lambda texts: classifier(texts).argmax(axis=1) == classifier.labels.index(POSITIVE)


def load_nli_classifier(name: str) -> Classifier:
    """Loads a published classifier of pairs (`roberta-large-mnli`), by a name for `assets.resolve`.

    It maps pairs to `[n, 3]` float32, in the order of `LABELS`.

    Raises:
      UserError: the model is missing (the message says how to get it), cannot be read by `SequenceClassifier`, or
        its labels are not those three.
    """
    path = assets.resolve(name)
    classifier = SequenceClassifier(path)
    if sorted(classifier.labels) != sorted(LABELS):
        found = ", ".join(classifier.labels)
        raise UserError(f"{path / 'config.json'} has the labels {found}, expected {', '.join(LABELS)}.")
    order = [classifier.labels.index(label) for label in LABELS]
    return lambda pairs: classifier(pairs)[:, order]
