"""Sentence encoders by sentence-transformers and torch, for models whose network this package does not have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_jax import assets
from rlhf_jax.errors import UserError


class TorchEncoder:
    """Texts to unit vectors, as `SentenceEncoder` does, whatever modules the model is made of.

    Args:
      name: a local folder, a packaged model as `assets.resolve` takes it, or a hub name, which sentence-transformers
        itself finds.

    Raises:
      UserError: sentence-transformers is not installed, or the packaged model is not there.
    """

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(f"{name} needs sentence-transformers, run: pip install 'rlhf_jax[sbert]'") from None
        packaged = name.startswith("package:")
        self._model = SentenceTransformer(str(assets.resolve(name)) if packaged else name, device="cpu")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """`[n, D]` float32 unit vectors, in the order of the texts, which are cut at the encoder's longest length."""
        return self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
