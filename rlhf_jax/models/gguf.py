"""GGUF files as a source of Hugging Face tensors: names translated, rows put in order, quantised types widened."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.models.families import Architecture, from_hugging_face

_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class GGUFSource:
    """Tensors of a LLaMA-shaped GGUF file under their Hugging Face names.

    Attributes:
      architecture: read from the file's metadata.

    Raises:
      UserError: not a GGUF file, another architecture, or metadata missing.
    """

    def __init__(self, path: Path) -> None:
        import gguf

        self._path = path
        try:
            reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, OSError) as error:  # IndexError is how the reader meets a file cut short
            raise UserError(f"{path}: not a readable GGUF file ({error})") from None
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = _architecture(reader, path, tied="output.weight" not in self._tensors)

    def names(self) -> set[str]:
        """Hugging Face names of all tensors in the file; one that has none goes by its own."""
        outside = {inside: name for name, inside in _OUTER.items()}
        for layer in range(self.architecture.layers):
            for name, inside in _INNER.items():
                outside[f"blk.{layer}.{inside}.weight"] = f"model.layers.{layer}.{name}.weight"
        return {outside.get(inside, inside) for inside in self._tensors}

    def tensor(self, name: str) -> np.ndarray:
        """One tensor in float32, in Hugging Face's shape and row order."""
        import gguf

        stored = self._tensors[self._inside(name)]
        weights = gguf.quants.dequantize(stored.data, stored.tensor_type).astype(np.float32, copy=False)
        weights = weights.reshape([int(n) for n in reversed(stored.shape)])
        heads = {"q_proj": self.architecture.heads, "k_proj": self.architecture.kv_heads}.get(name.split(".")[-2])
        if heads is None:
            return weights
        # GGUF interleaves the two halves of each head's rotary pairs; Hugging Face keeps them apart.
        rows, columns = weights.shape
        return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)

    def digest(self, name: str) -> str:
        """SHA-256 of the tensor as stored, before any conversion."""
        return hashlib.sha256(np.ascontiguousarray(self._tensors[self._inside(name)].data)).hexdigest()

    def _inside(self, name: str) -> str:
        if name in _OUTER:
            return _OUTER[name]
        _, _, layer, inner = name.removesuffix(".weight").split(".", 3)
        return f"blk.{layer}.{_INNER[inner]}.weight"


def _architecture(reader: Any, path: Path, tied: bool) -> Architecture:
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise UserError(f"{path}: general.architecture is {kind!r}; supported: 'llama'")
    try:
        heads = fields["llama.attention.head_count"]
        config = {
            "model_type": "llama",
            "vocab_size": fields["llama.vocab_size"],
            "hidden_size": fields["llama.embedding_length"],
            "num_hidden_layers": fields["llama.block_count"],
            "num_attention_heads": heads,
            "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
            "head_dim": fields.get("llama.attention.key_length"),
            "intermediate_size": fields["llama.feed_forward_length"],
            "rms_norm_eps": float(fields["llama.attention.layer_norm_rms_epsilon"]),
            "rope_parameters": {
                "rope_type": fields.get("llama.rope.scaling.type", "none").replace("none", "default"),
                "rope_theta": fields.get("llama.rope.freq_base", 10000.0),
            },
            "max_position_embeddings": fields["llama.context_length"],
            "tie_word_embeddings": tied,
        }
    except KeyError as missing:
        raise UserError(f"{path}: the metadata field {missing} is missing") from None
    return from_hugging_face(config, str(path))
