"""A cache in front of an encoder."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class EncodeOnce:
    """An encoder with a cache: every distinct text is encoded once, however many metrics ask for it.

    Args:
      encoder: an encoder of texts, or a classifier of pairs of texts.
    """

    def __init__(self, encoder: Callable[[Sequence[Any]], np.ndarray]) -> None:
        self._encoder = encoder
        self._vectors: dict[Any, np.ndarray] = {}

    def __call__(self, texts: Sequence[Any]) -> np.ndarray:
        """Returns `[n, D]`, one row per text or pair."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._encoder(new), strict=True))
        return np.stack([self._vectors[text] for text in texts])
