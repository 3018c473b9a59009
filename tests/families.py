"""One architecture of every family and feature, as changes to `tests.tiny.architecture`."""

from typing import Any

from rlhf_jax.models.architecture import Rotary

LLAMA3 = Rotary(5e5, "llama3", 8.0, 1.0, 4.0, 8192)
OPT: dict[str, Any] = {
    "family": "opt",
    "rotary": None,
    "norm": "layer",
    "gated": False,
    "activation": "relu",
    "kv_heads": 4,
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama untied": {"tied": False, "kv_heads": 4},
    "llama head_dim": {"head_dim": 16, "rotary": Rotary(5e5)},
    "llama 3": {"rotary": LLAMA3},
    "llama linear": {"rotary": Rotary(1e4, "linear", 4.0)},
    "llama dynamic": {"rotary": Rotary(1e4, "dynamic", 2.0)},
    "llama biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "mistral": {"family": "mistral"},
    "mistral window": {"family": "mistral", "windows": (7, 7, 7)},
    "qwen2": {"family": "qwen2", "qkv_bias": True},
    "qwen2 windows": {"family": "qwen2", "qkv_bias": True, "windows": (None, 9, 9)},
    "qwen3 windows": {"family": "qwen3", "qk_norm": True, "windows": (9, None, 9)},
    "qwen3 biases": {"family": "qwen3", "qk_norm": True, "qkv_bias": True, "out_bias": True},
    "opt": OPT,
    "opt without biases": {**OPT, "tied": False, "qkv_bias": False, "out_bias": False, "mlp_bias": False},
    "opt 350m": {**OPT, "norm_first": False, "final_norm": False, "embed_width": 16},
    "opt without final norm": {**OPT, "final_norm": False},
}
