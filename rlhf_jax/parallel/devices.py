"""Facts about the devices of this process: memory in use, the dtype to compute in."""

import resource
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.errors import UserError

CPUINFO = Path("/proc/cpuinfo")


def memory_peak() -> dict[str, int]:
    """Peak memory since the process began, in bytes.

    The key is `device_memory_peak_bytes` (the fullest device of this process) where devices report it. CPUs do not, and
    then it is `process_memory_peak_bytes`, the peak resident set of the whole process.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return {"device_memory_peak_bytes": max(of["peak_bytes_in_use"] for of in stats)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"process_memory_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def cast(tree: Any, dtype: jnp.dtype) -> Any:
    """`tree` with its floating-point arrays in `dtype`. Integers, booleans and keys stay."""

    def convert(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(convert, tree)


def count_parameters(tree: Any) -> int:
    """The number of values in a pytree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def default_dtype(name: str) -> jnp.dtype:
    """The dtype to compute in, from "float32", "bfloat16" or "auto".

    "auto" is bfloat16 where the hardware multiplies it fast (an accelerator, or a CPU with AMX or AVX512-BF16), else
    float32.

    Raises:
      UserError: another name.
    """
    if name == "auto":
        name = "bfloat16" if jax.default_backend() != "cpu" or _cpu_has_bfloat16() else "float32"
    if name not in ("float32", "bfloat16"):
        raise UserError(f"the dtype is {name!r}, expected 'auto', 'float32' or 'bfloat16'")
    return jnp.dtype(name)


def _cpu_has_bfloat16() -> bool:
    if not CPUINFO.exists():
        return False
    flags = next((line.split() for line in CPUINFO.read_text().splitlines() if line.startswith("flags")), [])
    return "amx_bf16" in flags or "avx512_bf16" in flags
