"""Sentence encoders of any architecture whose folder has an ONNX file, run by onnxruntime on the host CPU."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from rlhf_jax.encoders.bert import BUCKETS, Batch, read_json, read_tokenizer, run_batches
from rlhf_jax.encoders.pooling import longest_text, read_pooling, unit_vectors
from rlhf_jax.errors import UserError

REQUIRED = {"input_ids", "attention_mask"}
INPUTS = REQUIRED | {"token_type_ids"}
HIDDEN = ("last_hidden_state", "token_embeddings")
"""Names of the output `[B, T, D]` in exports by transformers' and by sentence-transformers' tools."""


class OnnxEncoder:
    """Encodes texts as unit vectors, as `SentenceEncoder` does.

    Args:
      path: a sentence-transformers folder: modules.json, 1_Pooling/config.json, sentence_bert_config.json and
        tokenizer.json.
      network: the ONNX file in it.

    Raises:
      UserError: onnxruntime is not installed, a file is missing or broken, or describes another pooling or module, or
        the network has other inputs or outputs.
    """

    def __init__(self, path: Path, network: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{network} needs onnxruntime, run: pip install 'rlhf_jax[onnx]'") from None
        self._pool = read_pooling(path)
        pooling = read_json(path, "1_Pooling/config.json")
        self._width = pooling.get("embedding_dimension") or pooling["word_embedding_dimension"]
        self._tokenizer = read_tokenizer(path, min(longest_text(path) or BUCKETS[-1], BUCKETS[-1]))
        try:
            self._session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class
            raise UserError(f"{network} is not a network that onnxruntime reads ({error})") from error
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        if not REQUIRED <= self._inputs <= INPUTS:
            raise UserError(
                f"{network} takes {', '.join(sorted(self._inputs))}, expected {', '.join(sorted(INPUTS))} or the first "
                "two of these."
            )
        given = [entry.name for entry in self._session.get_outputs()]
        self._hidden = [name for name in HIDDEN if name in given][:1]
        if not self._hidden:
            raise UserError(f"{network} gives {', '.join(given)}, expected {' or '.join(HIDDEN)} among them.")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n, D]` float32 unit vectors, in the order of the texts. Longer texts are truncated."""
        return run_batches(self._tokenizer, texts, self._width, self._embed)

    def _embed(self, batch: Batch) -> np.ndarray:
        given = {"input_ids": batch.tokens, "attention_mask": batch.mask, "token_type_ids": batch.segments}
        [hidden] = self._session.run(
            self._hidden, {name: given[name].astype(np.int64) for name in sorted(self._inputs)}
        )
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return unit_vectors(self._pool, hidden, batch.mask)
