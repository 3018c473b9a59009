"""Architectures by hub name, as `families` reads them from their `config.json`, without the hub and without weights."""

from rlhf_jax.models.architecture import Architecture, Rotary

_OPT = {"family": "opt", "rotary": None, "norm": "layer", "gated": False, "activation": "relu"}
_OPT |= {"qkv_bias": True, "out_bias": True, "mlp_bias": True}


def _opt(width: int, layers: int, heads: int, **changes: bool | int) -> Architecture:
    sizes = (50272, width, layers, heads, heads, width // heads, 4 * width, 1e-5, 2048, True)
    return Architecture(*sizes, **_OPT, **changes)


# In the order of Architecture's fields: vocabulary, width, layers, heads, KV heads, head width, MLP width, epsilon,
# positions, tied.
_SMOLLM2 = (49152, 576, 30, 9, 3, 64, 1536, 1e-5, 8192, True)
_LLAMA = (32000, 4096, 32, 32, 32, 128, 11008, 1e-6, 2048, False)
_LLAMA3 = (128256, 4096, 32, 32, 8, 128, 14336, 1e-5, 8192, False)

PRESETS: dict[str, Architecture] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Architecture(*_SMOLLM2, rotary=Rotary(100000.0)),
    "huggyllama/llama-7b": Architecture(*_LLAMA),
    "meta-llama/Meta-Llama-3-8B": Architecture(*_LLAMA3, rotary=Rotary(500000.0)),
    "facebook/opt-125m": _opt(768, 12, 12),
    "facebook/opt-350m": _opt(1024, 24, 16, norm_first=False, final_norm=False, embed_width=512),
    "facebook/opt-1.3b": _opt(2048, 24, 32),
    "facebook/opt-2.7b": _opt(2560, 32, 32),
    "facebook/opt-6.7b": _opt(4096, 32, 32),
}
