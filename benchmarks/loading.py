"""How long models take to load: SmolLM2 from its GGUF, and from safetensors against a plain read of the same file.

    .venv/bin/python benchmarks/loading.py

Files are in the page cache, so the ratio is what this project adds to the disk's own time. Best of three.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from rlhf_jax import assets
from rlhf_jax.models.hf.pretrained import load, load_pretrained, save_pretrained


def best_of_three(function: Callable[[], object]) -> float:
    """Seconds of the fastest call."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    began = time.perf_counter()
    loaded = load_pretrained(assets.SMOLLM2)
    print(f"GGUF, the first time in a process: {time.perf_counter() - began:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(folder, *loaded)
        file = Path(folder) / "model.safetensors"
        plain = best_of_three(file.read_bytes)
        print(f"plain read of {file.stat().st_size / 1e6:.0f} MB of safetensors: {plain:.2f} s")
        whole = best_of_three(lambda: load_pretrained(folder)[1])
        print(f"as float32, nothing frozen: {whole:.2f} s, {whole / plain:.1f} times as long")
        frozen = best_of_three(lambda: load(folder, 0.8, jnp.dtype("bfloat16"))[1:3])
        print(f"80 % frozen, in bfloat16 and with its fingerprint: {frozen:.2f} s, {frozen / plain:.1f} times as long")


if __name__ == "__main__":
    main()
