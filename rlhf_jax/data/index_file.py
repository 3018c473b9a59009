"""The study's index files: a `.npy` that holds one dict, from a split's name to the numbers of some of its rows."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read(path: str, split: str) -> set[int]:
    """The row numbers of one split.

    Such a file is a pickle, and a pickle may name any function to be called; here none is but those that make arrays.

    Raises:
      UserError: the file is missing, not of this form or without the split.
    """
    try:
        with open(path, "rb") as file:
            _HEADERS[np.lib.format.read_magic(file)](file)
            splits = _Arrays(file).load().item()
            numbers = np.asarray(splits[split])
        if numbers.dtype.kind not in "iu" or numbers.ndim != 1 or (numbers < 0).any():
            raise ValueError(f"no row numbers: {numbers.dtype} of shape {numbers.shape}")
        return set(numbers.tolist())
    except Exception as error:  # broken bytes of a pickle raise anything
        raise UserError(
            f"{path} cannot be read as an index file ({type(error).__name__}: {error}), expected a .npy of a dict with "
            f"the row numbers of {split!r}."
        ) from error


class _Arrays(pickle.Unpickler):
    """Arrays and plain data, written by NumPy 1 or 2."""

    _ALLOWED = {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
    }

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return super().find_class(module, name)
