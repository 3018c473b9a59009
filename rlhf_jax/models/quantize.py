"""Weights as int8 with a scale for each output, for products whose weights are never trained.

    kernel ~ values * scale        x @ kernel ~ (x @ values) * scale

The scale comes after the product, so that weights are read as one byte each. It is rounded to the compute dtype before
the values are found, so rounding it costs nothing. The largest value is 127 in every column (Dettmers et al., 2022,
without their parts in higher precision).
"""

from collections.abc import Collection

import jax.numpy as jnp
import numpy as np

LARGEST = 127


def scale_path(path: str) -> str:
    """Path of the scale that belongs to the kernel at `path`."""
    return f"{path}_scale"


def is_quantised(path: str, declared: Collection[str]) -> bool:
    """True if the parameter at `path` is stored as int8: those have a scale among the network's declared parameters."""
    return scale_path(path) in declared


def quantise(kernel: np.ndarray, inputs: int, dtype: jnp.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 values of a finite kernel, `[*inputs, *outputs]`, and their scale `[*outputs]`, by columns.

    `inputs` is the number of input axes, and `dtype` that of the scale. Values are between -127 and 127. A column of
    zeros has the scale 1.
    """
    kernel = np.asarray(kernel, np.float32)
    largest = np.abs(kernel).max(axis=tuple(range(inputs)))
    scale = np.asarray(np.where(largest > 0, largest / LARGEST, 1), dtype)
    values = np.rint(kernel / np.asarray(scale, np.float32))
    return np.clip(values, -LARGEST, LARGEST).astype(np.int8), scale
