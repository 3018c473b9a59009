"""GGUF files as a source of Hugging Face tensors: names translated, rows put in order, quantised types widened."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.assets import open_gguf
from rlhf_jax.errors import UserError
from rlhf_jax.models.architecture import Architecture
from rlhf_jax.models.hf.families import from_hugging_face
from rlhf_jax.models.hf.layout import entries

KINDS = ("llama", "qwen2", "qwen3")  # of GGUF's `general.architecture`; Mistral's files say "llama"


class GGUFSource:
    """Tensors of a GGUF file under their Hugging Face names, with the architecture in the file's metadata.

    Raises:
      UserError: not a GGUF file, another architecture, or metadata missing.
    """

    def __init__(self, path: Path) -> None:
        import gguf

        self._path = path
        reader = open_gguf(path)
        stored = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = a = _architecture(reader, path, stored)
        kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == a.family)
        translate = gguf.get_tensor_name_map(kind, a.layers).get_name
        expected = (name for entry in entries(a, a.vocabulary) for name in entry.tensors)
        outside = {translate(name, try_suffixes=(".weight", ".bias")): name for name in expected}
        self._tensors = {outside.get(name, name): tensor for name, tensor in stored.items()}

    def names(self) -> set[str]:
        """Hugging Face names of all tensors in the file. One that has none goes by its own."""
        return set(self._tensors)

    def tensor(self, name: str) -> np.ndarray:
        """One tensor in float32, in Hugging Face's shape and row order."""
        import gguf

        stored = self._tensors[name]
        try:
            weights = gguf.quants.dequantize(stored.data, stored.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError:
            kind = stored.tensor_type.name
            raise UserError(f"{self._path}: {name} has the type {kind}; it cannot be widened") from None
        weights = weights.reshape([int(n) for n in reversed(stored.shape)])
        a = self.architecture
        heads = {"q_proj": a.heads, "k_proj": a.kv_heads}.get(name.split(".")[-2])
        if a.family != "llama" or heads is None:
            return weights
        # LLaMA's files interleave the two halves of each head's rotary pairs; Hugging Face keeps them apart.
        rows, *columns = weights.shape
        return weights.reshape(heads, rows // heads // 2, 2, *columns).swapaxes(1, 2).reshape(rows, *columns)

    def digest(self, name: str) -> str:
        """SHA-256 of the tensor as stored, before any conversion."""
        return hashlib.sha256(np.ascontiguousarray(self._tensors[name].data)).hexdigest()


def _architecture(reader: Any, path: Path, tensors: dict[str, Any]) -> Architecture:
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    kind = fields.get("general.architecture")
    if kind not in KINDS:
        raise UserError(f"{path}: general.architecture is {kind!r}; supported: {', '.join(map(repr, KINDS))}")
    fields = {name.removeprefix(f"{kind}."): value for name, value in fields.items()}
    scaling = fields.get("rope.scaling.type", "none").replace("none", "default")
    try:
        heads = fields["attention.head_count"]
        config = {
            "model_type": kind,
            "vocab_size": int(tensors["token_embd.weight"].shape[1]),
            "hidden_size": fields["embedding_length"],
            "num_hidden_layers": fields["block_count"],
            "num_attention_heads": heads,
            "num_key_value_heads": fields.get("attention.head_count_kv", heads),
            "head_dim": fields.get("attention.key_length"),
            "intermediate_size": fields["feed_forward_length"],
            "rms_norm_eps": float(fields["attention.layer_norm_rms_epsilon"]),
            "rope_parameters": {
                "rope_type": scaling,
                "rope_theta": fields.get("rope.freq_base", 10000.0),
                **({"factor": fields["rope.scaling.factor"]} if scaling == "linear" else {}),
            },
            "attention_bias": kind == "llama" and "blk.0.attn_q.bias" in tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in tensors,
            "max_position_embeddings": fields["context_length"],
            "tie_word_embeddings": "output.weight" not in tensors,
        }
    except KeyError as missing:
        raise UserError(f"{path}: {missing} is missing") from None
    architecture = from_hugging_face(config, str(path))
    # What would change the result, and the one value that this network computes.
    computed = {
        "rope.dimension_count": architecture.head_dim,
        "attention.value_length": architecture.head_dim,
        "attention.scale": architecture.head_dim**-0.5,
        "attention.sliding_window": 0,
        "rope.scale_linear": 1.0,
        "rope.scaling.factor": 1.0 if scaling == "default" else fields.get("rope.scaling.factor"),
        "expert_count": 0,
    }
    for key, expected in computed.items():
        if not math.isclose(fields.get(key, expected), expected, rel_tol=1e-6):
            raise UserError(f"{path}: {key} is {fields[key]}; only {expected} is supported")
    return architecture
