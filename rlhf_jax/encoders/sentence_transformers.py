"""Sentence encoders by sentence-transformers and torch, for networks that this package does not have."""

import importlib.util
from collections.abc import Sequence

import numpy as np

from rlhf_jax import assets
from rlhf_jax.errors import UserError


def require_package(name: str) -> None:
    """Raises UserError unless sentence-transformers, which `name` needs, is installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UserError(f"{name} needs sentence-transformers, run: pip install 'rlhf_jax[sbert]'")


class TorchEncoder:
    """Encodes texts as unit vectors, as `SentenceEncoder` does. The model may have any modules.

    Args:
      name: a local folder, a packaged model as `assets.resolve` takes it, or a hub name, which sentence-transformers
        itself finds.

    Raises:
      UserError: sentence-transformers is not installed, or the packaged model is missing.
    """

    def __init__(self, name: str) -> None:
        require_package(name)
        from sentence_transformers import SentenceTransformer

        packaged = name.startswith("package:")
        self._model = SentenceTransformer(str(assets.resolve(name)) if packaged else name, device="cpu")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n, D]` float32 unit vectors, in the order of the texts. Longer texts are truncated."""
        return self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
