"""Architectures by hub name, so that what depends on sizes alone needs neither the hub nor weights.

Each is what `families` reads from the `config.json` of that name.
"""

from __future__ import annotations

import dataclasses

from rlhf_jax.models.architecture import Architecture, Rotary

_OPT = Architecture(
    vocabulary=50272,
    width=768,
    layers=12,
    heads=12,
    kv_heads=12,
    head_dim=64,
    mlp_features=3072,
    epsilon=1e-5,
    max_length=2048,
    tied=True,
    family="opt",
    rotary=None,
    norm="layer",
    gated=False,
    activation="relu",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
)


def _opt(width: int, layers: int, heads: int, **changes: bool | int) -> Architecture:
    sizes = {"width": width, "layers": layers, "heads": heads, "kv_heads": heads, "head_dim": width // heads}
    return dataclasses.replace(_OPT, **sizes, mlp_features=4 * width, **changes)


PRESETS: dict[str, Architecture] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Architecture(
        vocabulary=49152,
        width=576,
        layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        mlp_features=1536,
        epsilon=1e-5,
        max_length=8192,
        tied=True,
        rotary=Rotary(100000.0),
    ),
    "huggyllama/llama-7b": Architecture(
        vocabulary=32000,
        width=4096,
        layers=32,
        heads=32,
        kv_heads=32,
        head_dim=128,
        mlp_features=11008,
        epsilon=1e-6,
        max_length=2048,
        tied=False,
    ),
    "meta-llama/Meta-Llama-3-8B": Architecture(
        vocabulary=128256,
        width=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mlp_features=14336,
        epsilon=1e-5,
        max_length=8192,
        tied=False,
        rotary=Rotary(500000.0),
    ),
    "facebook/opt-125m": _OPT,
    "facebook/opt-350m": _opt(1024, 24, 16, norm_first=False, final_norm=False, embed_width=512),
    "facebook/opt-1.3b": _opt(2048, 24, 32),
    "facebook/opt-2.7b": _opt(2560, 32, 32),
    "facebook/opt-6.7b": _opt(4096, 32, 32),
}
