"""Sentence encoders by sentence-transformers and torch, for networks that this package does not have."""

from collections.abc import Sequence

import numpy as np

from rlhf_jax import assets
from rlhf_jax.errors import UserError


class TorchEncoder:
    """Encodes texts as unit vectors, as `SentenceEncoder` does. The model may have any modules.

    Args:
      name: a local folder, a packaged model as `assets.resolve` takes it, or a hub name, which sentence-transformers
        itself finds.

    Raises:
      UserError: sentence-transformers is not installed, or the packaged model is missing.
    """

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(f"{name} needs sentence-transformers, run: pip install 'rlhf_jax[sbert]'") from None
        packaged = name.startswith("package:")
        self._model = SentenceTransformer(str(assets.resolve(name)) if packaged else name, device="cpu")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n, D]` float32 unit vectors, in the order of the texts. Longer texts are truncated."""
        return self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
