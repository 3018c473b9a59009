"""The study's index files: a `.npy` with one dict from a split's name to the indices of some of its rows."""

import numpy as np

from rlhf_jax import safe_pickle
from rlhf_jax.errors import UserError

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_CORE = {
    "multiarray._reconstruct": np._core.multiarray._reconstruct,
    "multiarray.scalar": np._core.multiarray.scalar,
    "numeric._frombuffer": np._core.numeric._frombuffer,
}
# NumPy 1 and 2 write the same functions under two names.
_NAMES = {
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    **{f"numpy.{core}.{name}": function for core in ("core", "_core") for name, function in _CORE.items()},
}
_SET_STATE = {np.ndarray: np.ndarray.__setstate__, np.dtype: np.dtype.__setstate__}


def read(path: str, split: str) -> set[int]:
    """Reads the row indices of one split.

    Such a file is a pickle, which is only allowed to make arrays (`safe_pickle`).

    Raises:
      UserError: the file is missing, has another form or lacks the split.
    """
    try:
        with open(path, "rb") as file:
            _HEADERS[np.lib.format.read_magic(file)](file)
            splits = safe_pickle.load(file.read(), "content", _NAMES, set_state=_SET_STATE).item()
        rows = np.asarray(splits[split])
        if rows.dtype.kind not in "iu" or rows.ndim != 1 or (rows < 0).any():
            raise ValueError(f"no row indices: {rows.dtype} of shape {rows.shape}")
        return set(rows.tolist())
    except Exception as error:  # broken bytes raise anything
        raise UserError(
            f"{path} cannot be read as an index file ({type(error).__name__}: {error}), expected a .npy of a dict with "
            f"the row indices of {split!r}."
        ) from error
