"""Encode each distinct text once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class EncodeOnce:
    """An encoder that remembers: every distinct text is encoded once in its life, however many metrics ask for it.

    Args:
      encoder: what does the work: an encoder of texts, or a classifier of pairs of them.
    """

    def __init__(self, encoder: Callable[[Sequence[Any]], np.ndarray]):
        self._encoder = encoder
        self._vectors: dict[Any, np.ndarray] = {}

    def __call__(self, texts: Sequence[Any]) -> np.ndarray:
        """`[n, D]`, one row a text or pair."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._encoder(new), strict=True))
        return np.stack([self._vectors[text] for text in texts])
