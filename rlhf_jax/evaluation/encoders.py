"""Sentence encoders: sentence-transformers folders of BERT, RoBERTa or MPNet, on the host CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import assets
from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.bidirectional import Bidirectional, Folder, batches, read_json
from rlhf_jax.evaluation.diversity import Encoder


def _sum(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask[..., None], hidden, 0).sum(axis=1)


def _largest(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask[..., None], hidden, -jnp.inf).max(axis=1)


POOLING: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "pooling_mode_mean_tokens": _sum,  # of any length: vectors are normalised
    "pooling_mode_cls_token": lambda hidden, mask: hidden[:, 0],
    "pooling_mode_max_tokens": _largest,
}
"""`(hidden [B, T, D], mask [B, T]) -> [B, D]` by its name in a pooling config."""


class SentenceEncoder:
    """Texts to unit vectors: the hidden states pooled as the model's own config says, normalised (Reimers & Gurevych,
    2019). A text's vector does not depend on its batch mates (to rounding).

    Args:
      path: a sentence-transformers folder: config.json, modules.json, 1_Pooling/config.json, sentence_bert_config.json,
        tokenizer.json and model.safetensors.

    Raises:
      UserError: a file is missing or describes another architecture, pooling or module.
    """

    def __init__(self, path: Path):
        pool = _read_pooling(path)
        folder = Folder(path, read_json(path, "sentence_bert_config.json").get("max_seq_length"))
        self._tokenizer = folder.tokenizer
        self._width = folder.architecture.width
        cpu = jax.local_devices(backend="cpu")[0]
        self._params = jax.device_put({"params": folder.params()}, cpu)
        self._embed = jax.jit(functools.partial(_embed, Bidirectional(folder.architecture), pool))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """`[n, D]` float32 unit vectors, in the order of the texts, which are cut at the encoder's longest length."""
        vectors = np.empty((len(texts), self._width), np.float32)
        for batch in batches(self._tokenizer.encode_batch(list(texts))):
            found = self._embed(self._params, batch.tokens, batch.segments, batch.mask)
            vectors[batch.rows] = found[: len(batch.rows)]
        return vectors


def load_encoder(name: str) -> Encoder:
    """Loads a sentence encoder.

    Args:
      name: what `assets.resolve` takes: a local folder, `assets.MINILM`, or a hub name; or "openai:MODEL" for an
        endpoint that speaks OpenAI's embeddings API.

    Returns:
      A function from a list of texts to `[n, D]` float32 unit vectors, on the host CPU.

    Raises:
      UserError: the model is not there (the message says how to get it) or is none that `SentenceEncoder` knows.
    """
    if name.startswith("openai:"):
        from rlhf_jax.evaluation.embedding_endpoint import EmbeddingEndpoint

        return EmbeddingEndpoint(name.removeprefix("openai:"))
    return SentenceEncoder(assets.resolve(name))


def _embed(
    network: Bidirectional,
    pool: Callable[[jax.Array, jax.Array], jax.Array],
    params: Mapping[str, Any],
    tokens: jax.Array,
    segments: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    pooled = pool(network.apply(params, tokens, segments, mask), mask)
    return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)


def _read_pooling(path: Path) -> Callable[[jax.Array, jax.Array], jax.Array]:
    types = [module["type"].rpartition(".")[2] for module in read_json(path, "modules.json")]
    if types not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(
            f"{path / 'modules.json'} lists {', '.join(types)}, expected Transformer, Pooling and perhaps Normalize."
        )
    pooling = read_json(path, "1_Pooling/config.json")
    chosen = sorted(key for key, value in pooling.items() if key.startswith("pooling_mode_") and value)
    if len(chosen) != 1 or chosen[0] not in POOLING:
        raise UserError(
            f"{path / '1_Pooling/config.json'} chooses {', '.join(chosen) or 'nothing'}, expected one of "
            f"{', '.join(POOLING)}."
        )
    return POOLING[chosen[0]]
