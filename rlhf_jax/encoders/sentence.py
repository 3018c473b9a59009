"""Sentence encoders: sentence-transformers folders of BERT, RoBERTa or MPNet, on the host CPU."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax import assets
from rlhf_jax.encoders.bert import Bidirectional, Folder, run_batches
from rlhf_jax.encoders.pooling import Pooling, longest_text, read_pooling, unit_vectors
from rlhf_jax.errors import readable
from rlhf_jax.metrics.diversity import Encoder

ONNX_FILES = ("model.onnx", "onnx/model.onnx")
"""Paths of a network in that format within a published folder."""


class SentenceEncoder:
    """Encodes texts as unit vectors: pooled and normalised hidden states (Reimers & Gurevych, 2019).

    The model's own config chooses the pooling. A vector does not depend on the rest of its batch (to rounding).

    Args:
      path: a sentence-transformers folder: config.json, modules.json, 1_Pooling/config.json, sentence_bert_config.json,
        tokenizer.json and model.safetensors.

    Raises:
      UserError: a file is missing or describes another architecture, pooling or module.
    """

    def __init__(self, path: Path) -> None:
        pool = read_pooling(path)
        folder = Folder(path, longest_text(path))
        self._tokenizer = folder.tokenizer
        self._width = folder.config.width
        cpu = jax.local_devices(backend="cpu")[0]
        self._params = jax.device_put({"params": folder.params()}, cpu)
        self._embed = jax.jit(functools.partial(_embed, Bidirectional(folder.config), pool))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n, D]` float32 unit vectors, in the order of the texts. Longer texts are truncated."""
        embed = functools.partial(self._embed, self._params)
        return run_batches(self._tokenizer, texts, self._width, lambda b: embed(b.tokens, b.segments, b.mask))


def find_encoder(name: str) -> None:
    """Raises UserError if `load_encoder` would not find what `name` needs: files, a package or a key."""
    if name.startswith("openai:"):
        from rlhf_jax.encoders.openai import EmbeddingEndpoint

        EmbeddingEndpoint(name.removeprefix("openai:"))
    elif name.startswith("sbert:"):
        from rlhf_jax.encoders.sentence_transformers import require_package

        require_package(name)
    else:
        assets.resolve(name, weights=False)


def load_encoder(name: str) -> Encoder:
    """Loads a sentence encoder: a function from a list of texts to `[n, D]` float32 unit vectors, on the host CPU.

    `name` is a name for `assets.resolve`: a local folder, `assets.MINILM`, or a hub name. A folder with an ONNX file
    and without safetensors is run by onnxruntime. "sbert:NAME" chooses sentence-transformers and torch. "openai:MODEL"
    chooses an endpoint that speaks OpenAI's embeddings API.

    Raises:
      UserError: the model is missing (the message says how to get it), is not one that `SentenceEncoder` supports, or
        needs onnxruntime or sentence-transformers, which is not installed.
    """
    if name.startswith("openai:"):
        from rlhf_jax.encoders.openai import EmbeddingEndpoint

        return EmbeddingEndpoint(name.removeprefix("openai:"))
    if name.startswith("sbert:"):
        from rlhf_jax.encoders.sentence_transformers import TorchEncoder

        return TorchEncoder(name.removeprefix("sbert:"))
    path = assets.resolve(name)
    onnx = [path / file for file in ONNX_FILES if (path / file).is_file()]
    with readable(f"the sentence encoder {path}"):
        if onnx and not (path / "model.safetensors").is_file():
            from rlhf_jax.encoders.onnx import OnnxEncoder

            return OnnxEncoder(path, onnx[0])
        return SentenceEncoder(path)


def _embed(
    network: Bidirectional,
    pool: Pooling,
    params: Mapping[str, Any],
    tokens: jax.Array,
    segments: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    return unit_vectors(pool, network.apply(params, tokens, segments, mask), mask)
