"""Sequence classifiers: published folders of BERT, RoBERTa or MPNet with a head for labels, on the host CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import assets
from rlhf_jax.encoders.bert import FAMILIES, Bidirectional, Folder, batches
from rlhf_jax.errors import UserError
from rlhf_jax.metrics.nli import LABELS, Classifier

POSITIVE = "positive"


class SequenceClassifier:
    """Texts, or pairs of texts, to the probabilities of labels.

    Args:
      path: a published folder, as `bidirectional.Folder` reads it, whose config names the labels (`id2label`).

    Attributes:
      labels: in lower case, in the order of the probabilities.

    Raises:
      UserError: a file is missing, or describes another architecture or no classifier.
    """

    def __init__(self, path: Path) -> None:
        folder = Folder(path)
        family = FAMILIES[folder.architecture.family]
        named = {int(index): label.lower() for index, label in folder.config.get("id2label", {}).items()}
        self.labels = [named[index] for index in sorted(named)]
        for name in (family.pooler, family.classifier):
            if f"{name}.weight" not in folder.tensors:
                raise UserError(f"{path / 'model.safetensors'} has no {name}, expected a sequence classifier.")
        self._tokenizer = folder.tokenizer
        head = {"pooler": folder.dense(family.pooler), "classifier": folder.dense(family.classifier)}
        cpu = jax.local_devices(backend="cpu")[0]
        self._params = jax.device_put({"network": folder.params(), "head": head}, cpu)
        self._classify = jax.jit(functools.partial(_classify, Bidirectional(folder.architecture)))

    def __call__(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> np.ndarray:
        """`[n, labels]` float32, in the order of the texts, which are cut at the network's longest length."""
        probabilities = np.empty((len(texts), len(self.labels)), np.float32)
        for batch in batches(self._tokenizer.encode_batch(list(texts))):
            found = self._classify(self._params, batch.tokens, batch.segments, batch.mask)
            probabilities[batch.rows] = found[: len(batch.rows)]
        return probabilities


def _classify(
    network: Bidirectional, params: Mapping[str, Any], tokens: jax.Array, segments: jax.Array, mask: jax.Array
) -> jax.Array:
    """The first token's state through a tanh layer and a linear one, as all three families do."""

    def dense(name: str, x: jax.Array) -> jax.Array:
        return x @ params["head"][name]["kernel"] + params["head"][name]["bias"]

    first = network.apply({"params": params["network"]}, tokens, segments, mask)[:, 0]
    return jax.nn.softmax(dense("classifier", jnp.tanh(dense("pooler", first))))


def load_sentiment(name: str) -> Callable[[Sequence[str]], np.ndarray]:
    """A sentiment classifier; `name` is what `assets.resolve` takes.

    Returns:
      A function from texts to `[n]` bool: whether "positive" is the likeliest of the labels.

    Raises:
      UserError: the model is not there (the message says how to get it), is none that `SequenceClassifier` reads, or
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
    """A published classifier of pairs (`roberta-large-mnli`); `name` is what `assets.resolve` takes.

    Returns:
      A function from pairs to `[n, 3]` float32, in the order of `LABELS`.

    Raises:
      UserError: the model is not there (the message says how to get it), is none that `SequenceClassifier` reads, or
        its labels are not those three.
    """
    path = assets.resolve(name)
    classifier = SequenceClassifier(path)
    if sorted(classifier.labels) != sorted(LABELS):
        found = ", ".join(classifier.labels)
        raise UserError(f"{path / 'config.json'} has the labels {found}, expected {', '.join(LABELS)}.")
    order = [classifier.labels.index(label) for label in LABELS]
    return lambda pairs: classifier(pairs)[:, order]
