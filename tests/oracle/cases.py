"""The oracle's cases: for every family and every preset feature, a config of the smallest network that shows it.

Data alone, read by both sides: by Python 3.11 with torch, and by this project's. Rows hold real ids from `FIRST_ID` on,
so that the pad, start and end ids of the families (0, 1, 2) stay free.
"""

from __future__ import annotations

import dataclasses
from typing import Any

FIRST_ID = 3
PAD_ID = 1  # of the classification models. OPT's own

BATCHES = ("right", "left", "holes", "long")  # see `make_references.py`
ROW_LENGTHS = (12, 7, 1)
ROW_WIDTH = 20
LONG_ROW = 140  # past one chunk of attention, 128
WINDOW = 5  # of sliding attention: shorter than the rows
GREEDY_PROMPTS = (9, 4)
GREEDY_TOKENS = 24

# Fields that `widened` multiplies.
_WIDTHS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "ffn_dim",
    "head_dim",
    "word_embed_proj_dim",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table in docs/models.md.

    Attributes:
      family: `model_type` of the config.
      preset: the published models of this shape.
      features: what they have that others do not.
      fields: the rest of the config.
      unused_rows: of the vocabulary, at its end: ids that no tokenizer gives.
    """

    family: str
    preset: str
    features: str
    fields: dict[str, Any]
    unused_rows: int = 0

    @property
    def window(self) -> bool:
        """Whether any layer's attention slides."""
        return "sliding_window" in self.fields

    @property
    def ids(self) -> int:
        """How many ids a tokenizer gives."""
        return self.fields["vocab_size"] - self.unused_rows

    def widened(self, factor: int) -> Case:
        """The same case with `factor` times the widths and vocabulary. Numbers of heads and layers stay."""
        wide = {key: value * factor for key, value in self.fields.items() if key in _WIDTHS}
        return dataclasses.replace(self, fields={**self.fields, **wide})


def _rotary(**fields: Any) -> dict[str, Any]:
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    rest = {
        "max_position_embeddings": 144,
        "rms_norm_eps": 1e-5,
        "rope_parameters": _rope(10_000.0),
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return {**sizes, **heads, **rest, **fields}


def _rope(theta: float, kind: str = "default", **parameters: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **parameters}


def _opt(**fields: Any) -> dict[str, Any]:
    sizes = {"vocab_size": 64, "hidden_size": 16, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**sizes, "max_position_embeddings": 144, "word_embed_proj_dim": 16, "tie_word_embeddings": True, **fields}


CASES = {
    "llama": Case("llama", "LLaMA 1, LLaMA 2", "untied head", _rotary()),
    "llama_gqa": Case(
        "llama",
        "LLaMA 3.2 without its scaling",
        "grouped queries 2:1, tied head",
        _rotary(num_attention_heads=4, tie_word_embeddings=True, rope_parameters=_rope(500_000.0)),
    ),
    "llama_head_dim": Case(
        "llama", "any", "head_dim that is not width / heads", _rotary(num_attention_heads=4, head_dim=6)
    ),
    "llama_rope_llama3": Case(
        "llama",
        "LLaMA 3.1 to 3.3",
        "llama3 rope scaling",
        # Of the four wavelengths 6, 63, 628 and 6283 one is kept, one blended and two are stretched.
        _rotary(
            rope_parameters=_rope(
                10_000.0,
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=100,
            )
        ),
    ),
    "llama_rope_linear": Case(
        "llama",
        "long-context LLaMA 2",
        "linear rope scaling",
        _rotary(rope_parameters=_rope(1e4, "linear", factor=4.0)),
    ),
    "llama_rope_dynamic": Case(
        "llama",
        "long-context LLaMA 2",
        "dynamic rope scaling, within the original length",
        _rotary(rope_parameters=_rope(1e4, "dynamic", factor=2.0)),
    ),
    "llama_biases": Case("llama", "any", "biases in attention and MLP", _rotary(attention_bias=True, mlp_bias=True)),
    "smollm2": Case(
        "llama",
        "SmolLM2",
        "grouped queries 3:1, tied head, theta 100000",
        _rotary(
            hidden_size=24,
            num_attention_heads=6,
            tie_word_embeddings=True,
            rope_parameters=_rope(100_000.0),
        ),
    ),
    "tinyllama": Case(
        "llama",
        "TinyLlama",
        "grouped queries 8:1, untied head",
        _rotary(hidden_size=32, num_attention_heads=8, num_key_value_heads=1),
    ),
    "mistral": Case(
        "mistral",
        "Mistral 7B",
        "sliding window",
        _rotary(num_attention_heads=4, head_dim=4, sliding_window=WINDOW),
    ),
    "qwen2": Case(
        "qwen2",
        "Qwen2, Qwen2.5",
        "biases on q, k, v, tied head",
        _rotary(num_attention_heads=4, tie_word_embeddings=True, rope_parameters=_rope(1e6)),
    ),
    "qwen2_window": Case(
        "qwen2",
        "Qwen2 with its window on",
        "full and sliding layers mixed",
        _rotary(
            num_attention_heads=4,
            num_hidden_layers=3,
            use_sliding_window=True,
            sliding_window=WINDOW,
            max_window_layers=1,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
    ),
    "qwen3": Case(
        "qwen3",
        "Qwen3",
        "norms on q and k, head_dim given",
        _rotary(num_attention_heads=4, head_dim=6, tie_word_embeddings=True, rope_parameters=_rope(1e6)),
    ),
    "opt": Case(
        "opt",
        "OPT 125M, 1.3B to 66B",
        "learned positions, biases, ReLU, more rows than ids",
        _opt(),
        unused_rows=7,
    ),
    "opt_350m": Case(
        "opt",
        "OPT 350M",
        "norms after each half, projected embeddings, no final norm",
        _opt(do_layer_norm_before=False, word_embed_proj_dim=8),
        unused_rows=7,
    ),
}
