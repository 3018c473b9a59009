"""Model families as data: what a Hugging Face `config.json` says, reduced to what changes the computation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A LLaMA-shaped decoder: pre-norm blocks, rotary positions, grouped-query attention, gated SiLU MLP.

    Attributes:
      vocabulary: V, rows of the embedding.
      width: D.
      layers: L.
      heads: H, query heads.
      kv_heads: K, key and value heads; divides H.
      head_dim: d.
      mlp_features: F.
      epsilon: of the RMS norms.
      rope_theta: base of the rotary wavelengths.
      max_length: positions that the model was trained for.
      tied: whether the LM head is the embedding.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_features: int
    epsilon: float
    rope_theta: float
    max_length: int
    tied: bool

    @property
    def group(self) -> int:
        """G, queries that share one KV head."""
        return self.heads // self.kv_heads


# Fields of a LLaMA config.json that change the result, with the one value that this network computes.
_REQUIRED_VALUES = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
    "pretraining_tp": 1,
}


def from_hugging_face(config: Mapping[str, Any], source: str) -> Architecture:
    """The architecture of a Hugging Face `config.json`.

    Args:
      config: the parsed file.
      source: its path, for messages.

    Raises:
      UserError: the model type or a field that would change the result is not supported, or a field is missing.
    """
    kind = config.get("model_type")
    if kind != "llama":
        raise UserError(f"{source}: model_type is {kind!r}; supported: 'llama'")
    for key, expected in _REQUIRED_VALUES.items():
        if config.get(key, expected) != expected:
            raise UserError(f"{source}: {key} is {config[key]!r}; only {expected!r} is supported")
    rope = config.get("rope_parameters") or {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)}
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"{source}: rope_type is {rope['rope_type']!r}; only 'default' is supported")
    try:
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        if heads % kv_heads:
            raise UserError(f"{source}: {kv_heads} key-value heads do not divide {heads} attention heads")
        return Architecture(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=kv_heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            mlp_features=config["intermediate_size"],
            epsilon=config["rms_norm_eps"],
            rope_theta=float(rope["rope_theta"]),
            max_length=config["max_position_embeddings"],
            tied=config.get("tie_word_embeddings", False),
        )
    except KeyError as missing:
        raise UserError(f"{source}: the field {missing} is missing") from None


def to_hugging_face(architecture: Architecture) -> dict[str, Any]:
    """The `config.json` of an architecture; `from_hugging_face` reads it back unchanged."""
    a = architecture
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": a.vocabulary,
        "hidden_size": a.width,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "intermediate_size": a.mlp_features,
        "rms_norm_eps": a.epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": a.rope_theta},
        "max_position_embeddings": a.max_length,
        "tie_word_embeddings": a.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }


def read_config(folder: Path) -> Architecture:
    """The architecture of a Hugging Face model folder.

    Raises:
      UserError: no readable `config.json`, or one that `from_hugging_face` refuses.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: no config.json; expected a Hugging Face model folder") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    return from_hugging_face(config, str(path))
