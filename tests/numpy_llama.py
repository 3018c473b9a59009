"""A LLaMA in plain NumPy, float64, one sequence at a time, from tensors under their Hugging Face names.

Written from the published equations and not from `rlhf_jax.models`: no batch, no padding, no mask but the causal one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from rlhf_jax.models.architecture import Architecture
from rlhf_jax.models.hf.pretrained import save_pretrained
from rlhf_jax.models.transformer import Model, Params


def tensors_of(folder: Path, model: Model, params: Params) -> dict[str, np.ndarray]:
    """The tensors that `save_pretrained` writes, in float64."""
    save_pretrained(folder, model, params)
    return {name: array.astype(np.float64) for name, array in load_file(folder / "model.safetensors").items()}


def hidden_states(tensors: Mapping[str, np.ndarray], a: Architecture, ids: Sequence[int]) -> np.ndarray:
    """`[T, D]`: states after the final norm."""
    x = tensors["model.embed_tokens.weight"][list(ids)]
    for layer in range(a.layers):

        def w(name: str, layer: int = layer) -> np.ndarray:
            return tensors[f"model.layers.{layer}.{name}.weight"]

        normed = rms_norm(x, w("input_layernorm"), a.epsilon)
        q, k, v = (
            (normed @ w(f"self_attn.{name}_proj").T).reshape(len(ids), count, a.head_dim)
            for name, count in (("q", a.heads), ("k", a.kv_heads), ("v", a.kv_heads))
        )
        q, k = rotate(q, a.rotary.theta), rotate(k, a.rotary.theta)
        heads = []
        for head in range(a.heads):
            kv = head // (a.heads // a.kv_heads)
            scores = q[:, head] @ k[:, kv].T / np.sqrt(a.head_dim)
            scores[np.triu_indices(len(ids), 1)] = -np.inf
            heads.append(softmax(scores) @ v[:, kv])
        x = x + np.concatenate(heads, axis=-1) @ w("self_attn.o_proj").T
        normed = rms_norm(x, w("post_attention_layernorm"), a.epsilon)
        gate, up = normed @ w("mlp.gate_proj").T, normed @ w("mlp.up_proj").T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w("mlp.down_proj").T
    return rms_norm(x, tensors["model.norm.weight"], a.epsilon)


def logits(tensors: Mapping[str, np.ndarray], a: Architecture, ids: Sequence[int]) -> np.ndarray:
    """`[T, V]`."""
    table = tensors["model.embed_tokens.weight" if a.tied else "lm_head.weight"]
    return hidden_states(tensors, a, ids) @ table.T


def response_log_probs(
    tensors: Mapping[str, np.ndarray], a: Architecture, ids: Sequence[int], response: int, temperature: float = 1.0
) -> np.ndarray:
    """Log-probs of the last `response` tokens."""
    predicted = log_softmax(logits(tensors, a, ids)[-response - 1 : -1] / temperature)
    return predicted[np.arange(response), list(ids)[-response:]]


def rms_norm(x: np.ndarray, scale: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def rotate(x: np.ndarray, theta: float) -> np.ndarray:
    """Each pair (i, i + d/2) of `[T, heads, d]` as a complex number times `exp(1j * position / theta^(2 i / d))`."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None, None] / theta ** (np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(x))


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
