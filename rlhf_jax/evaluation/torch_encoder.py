"""Sentence encoders by sentence-transformers and torch, for models whose network this package does not have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlhf_jax.errors import UserError


class TorchEncoder:
    """Texts to unit vectors, as `SentenceEncoder` does, whatever modules the model is made of.

    Args:
      path: a sentence-transformers folder.

    Raises:
      UserError: sentence-transformers is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(f"{path} needs sentence-transformers, run: pip install 'rlhf_jax[sbert]'") from None
        self._model = SentenceTransformer(str(path), device="cpu")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """`[n, D]` float32 unit vectors, in the order of the texts, which are cut at the encoder's longest length."""
        return self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
