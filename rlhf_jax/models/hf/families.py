"""Model families as data: how Hugging Face writes an `Architecture` down in a `config.json`, and back."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError
from rlhf_jax.models.architecture import Architecture, Rotary


class Fields:
    """The fields of a `config.json`, each read as what it has to be.

    A field that is missing is a `KeyError`, one of another kind a `ValueError`. Both say which.
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._values = {**defaults, **values}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def get(self, key: str) -> Any:
        """The field as it is, or None."""
        return self._values.get(key)

    def whole(self, key: str, least: int = 1) -> int:
        """A whole number from `least` on."""
        value = self._values[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{key} is {value!r}; expected a whole number of at least {least}")
        return value

    def whole_or_none(self, key: str) -> int | None:
        """The same, or None where the field is absent or null."""
        return None if self._values.get(key) is None else self.whole(key)

    def number(self, key: str) -> float:
        """A positive number."""
        value = self._values[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ValueError(f"{key} is {value!r}; expected a positive number")
        return float(value)

    def flag(self, key: str) -> bool:
        """true or false."""
        value = self._values[key]
        if not isinstance(value, bool):
            raise ValueError(f"{key} is {value!r}; expected true or false")
        return value


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family as Hugging Face writes it down.

    `read` maps the fields of a `config.json`, the defaults filled in, to an architecture. A missing field is a
    `KeyError`. `write` is the way back.
    """

    model_class: str  # of the causal LM in transformers
    classifier_class: str  # of the sequence classifier
    read: Callable[[Fields], Architecture]
    write: Callable[[Architecture], dict[str, Any]]
    defaults: Mapping[str, Any]  # of transformers, for absent fields
    required: Mapping[str, Any]  # fields that change the result, with the one value that this network computes


# What transformers reads of the rotary parameters of these families, and the older names.
_ROTARY_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "low_freq_factor"}
_ROTARY_KEYS |= {"high_freq_factor", "original_max_position_embeddings"}


def _read_rotary(fields: Fields) -> Rotary:
    """From transformers 5's `rope_parameters`, or `rope_theta` and `rope_scaling` of 4, which count where both are."""
    stretch = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if not isinstance(stretch, Mapping):
        raise ValueError(f"rope_scaling is {stretch!r}; expected an object")
    for key in stretch:
        if key not in _ROTARY_KEYS and stretch[key] is not None:
            raise ValueError(f"the rotary positions have {key} {stretch[key]!r}, which is not supported")
    stretch = Fields(stretch, {"rope_theta": fields["rope_theta"]})
    kind = stretch.get("rope_type") or stretch.get("type") or "default"
    theta = stretch.number("rope_theta")
    partial = stretch.get("partial_rotary_factor") or fields.get("partial_rotary_factor")
    if partial not in (None, 1.0):
        raise ValueError(f"partial_rotary_factor is {partial!r}; only 1.0 is supported")
    if kind == "default":
        return Rotary(theta)
    if kind in ("linear", "dynamic"):
        return Rotary(theta, kind, stretch.number("factor"))
    if kind == "llama3":
        factors = [stretch.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor")]
        if factors[1] >= factors[2]:
            raise ValueError(f"low_freq_factor is {factors[1]}; expected less than high_freq_factor, {factors[2]}")
        original = fields if fields.get("original_max_position_embeddings") is not None else stretch
        return Rotary(theta, kind, *factors, original.whole("original_max_position_embeddings"))
    raise ValueError(f"rope_type is {kind!r}; supported: 'default', 'linear', 'dynamic', 'llama3'")


def _write_rotary(rotary: Rotary) -> dict[str, Any]:
    """In the form of transformers 4, which 5 reads as well."""
    stretch: dict[str, Any] | None = None
    if rotary.kind != "default":
        stretch = {"rope_type": rotary.kind, "factor": rotary.factor}
    if rotary.kind == "llama3":
        stretch |= {"low_freq_factor": rotary.low_frequency_factor, "high_freq_factor": rotary.high_frequency_factor}
        stretch |= {"original_max_position_embeddings": rotary.original_length}
    return {"rope_theta": rotary.theta, "rope_scaling": stretch}


# Fields of an architecture that all families write alike.
_SIZES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "max_length": "max_position_embeddings",
}


def _read_sizes(fields: Fields) -> dict[str, int]:
    return {name: fields.whole(key) for name, key in _SIZES.items()}


def _write_sizes(a: Architecture) -> dict[str, Any]:
    return {**{key: getattr(a, name) for name, key in _SIZES.items()}, "tie_word_embeddings": a.tied}


def _read_llama_shaped(fields: Fields, family: str, **features: Any) -> Architecture:
    sizes = _read_sizes(fields)
    if fields.whole_or_none("head_dim") is None and sizes["width"] % sizes["heads"]:
        raise ValueError(f"{sizes['heads']} attention heads do not divide hidden_size {sizes['width']}")
    return Architecture(
        **sizes,
        kv_heads=fields.whole_or_none("num_key_value_heads") or sizes["heads"],
        head_dim=fields.whole_or_none("head_dim") or sizes["width"] // sizes["heads"],
        mlp_features=fields.whole("intermediate_size"),
        epsilon=fields.number("rms_norm_eps"),
        tied=fields.flag("tie_word_embeddings"),
        family=family,
        rotary=_read_rotary(fields),
        **features,
    )


def _write_llama_shaped(a: Architecture) -> dict[str, Any]:
    return {
        **_write_sizes(a),
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "intermediate_size": a.mlp_features,
        "rms_norm_eps": a.epsilon,
        "hidden_act": a.activation,
        **_write_rotary(a.rotary),
    }


def _read_llama(fields: Fields) -> Architecture:
    bias = fields.flag("attention_bias")
    return _read_llama_shaped(fields, "llama", qkv_bias=bias, out_bias=bias, mlp_bias=fields.flag("mlp_bias"))


def _write_llama(a: Architecture) -> dict[str, Any]:
    return {**_write_llama_shaped(a), "attention_bias": a.qkv_bias, "mlp_bias": a.mlp_bias}


def _read_mistral(fields: Fields) -> Architecture:
    window = fields.whole_or_none("sliding_window")
    windows = (window,) * fields.whole("num_hidden_layers") if window else ()
    return _read_llama_shaped(fields, "mistral", windows=windows)


def _write_mistral(a: Architecture) -> dict[str, Any]:
    return {**_write_llama_shaped(a), "sliding_window": a.windows[0] if a.windows else None}


def _read_windows(fields: Fields) -> tuple[int | None, ...]:
    """Qwen's windows: of the layers that `layer_types` names, else of those from `max_window_layers` on."""
    window, layers = fields.whole_or_none("sliding_window"), fields.whole("num_hidden_layers")
    if not fields.flag("use_sliding_window"):
        window = None
    default, first = ["full_attention", "sliding_attention"], fields.whole("max_window_layers", least=0)
    types = fields.get("layer_types") or [default[window is not None and layer >= first] for layer in range(layers)]
    if not isinstance(types, list) or len(types) != layers or not all(kind in default for kind in types):
        raise ValueError(f"layer_types is {types!r}; expected {layers} of 'full_attention' and 'sliding_attention'")
    if window is None and "sliding_attention" in types:
        raise ValueError("layer_types has 'sliding_attention', and use_sliding_window or sliding_window is off")
    windows = tuple(window if kind == "sliding_attention" else None for kind in types)
    return windows if any(windows) else ()


def _write_qwen(a: Architecture) -> dict[str, Any]:
    sizes = {window for window in a.windows if window}
    types = ["sliding_attention" if window else "full_attention" for window in a.windows or (None,) * a.layers]
    windows = {"use_sliding_window": bool(sizes), "sliding_window": sizes.pop() if sizes else None}
    return {**_write_llama_shaped(a), **windows, "max_window_layers": a.layers, "layer_types": types}


def _read_qwen2(fields: Fields) -> Architecture:
    return _read_llama_shaped(fields, "qwen2", qkv_bias=True, windows=_read_windows(fields))


def _read_qwen3(fields: Fields) -> Architecture:
    bias = fields.flag("attention_bias")
    features = {"qkv_bias": bias, "out_bias": bias, "qk_norm": True}
    return _read_llama_shaped(fields, "qwen3", **features, windows=_read_windows(fields))


def _write_qwen3(a: Architecture) -> dict[str, Any]:
    return {**_write_qwen(a), "attention_bias": a.qkv_bias}


def _read_opt(fields: Fields) -> Architecture:
    sizes, bias = _read_sizes(fields), fields.flag("enable_bias")
    width, heads = sizes["width"], sizes["heads"]
    outer = fields.whole_or_none("word_embed_proj_dim") or width
    if width % heads:
        raise ValueError(f"{heads} attention heads do not divide hidden_size {width}")
    return Architecture(
        **sizes,
        kv_heads=heads,
        head_dim=width // heads,
        mlp_features=fields.whole("ffn_dim"),
        epsilon=1e-5,
        tied=fields.flag("tie_word_embeddings"),
        family="opt",
        rotary=None,
        norm="layer",
        norm_first=fields.flag("do_layer_norm_before"),
        final_norm=fields.flag("do_layer_norm_before") and not fields.flag("_remove_final_layer_norm"),
        gated=False,
        activation="relu",
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        embed_width=outer if outer != width else None,
    )


def _write_opt(a: Architecture) -> dict[str, Any]:
    return {
        **_write_sizes(a),
        "ffn_dim": a.mlp_features,
        "do_layer_norm_before": a.norm_first,
        "_remove_final_layer_norm": a.norm_first and not a.final_norm,
        "word_embed_proj_dim": a.outer_width,
        "enable_bias": a.qkv_bias,
        "activation_function": a.activation,
        "layer_norm_elementwise_affine": True,
    }


_ROTARY = {"rope_theta": 10000.0, "tie_word_embeddings": False}
_QWEN = {**_ROTARY, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
_OPT = {"tie_word_embeddings": True, "enable_bias": True, "do_layer_norm_before": True}

# Of any family. Layers of these kinds are named in `layer_types` by Qwen alone.
_REQUIRED = {"is_causal": True, "quantization_config": None}
_ONE_KIND = {"layer_types": None}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM",
        "LlamaForSequenceClassification",
        _read_llama,
        _write_llama,
        defaults={**_ROTARY, "attention_bias": False, "mlp_bias": False},
        required={"hidden_act": "silu", **_ONE_KIND},
    ),
    "mistral": Family(
        "MistralForCausalLM",
        "MistralForSequenceClassification",
        _read_mistral,
        _write_mistral,
        defaults={**_ROTARY, "sliding_window": 4096, "num_key_value_heads": 8},
        required={"hidden_act": "silu", **_ONE_KIND},
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        "Qwen2ForSequenceClassification",
        _read_qwen2,
        _write_qwen,
        defaults={**_QWEN, "num_key_value_heads": 32},
        required={"hidden_act": "silu"},
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        "Qwen3ForSequenceClassification",
        _read_qwen3,
        _write_qwen3,
        defaults={**_QWEN, "num_key_value_heads": 32, "head_dim": 128, "attention_bias": False},
        required={"hidden_act": "silu"},
    ),
    "opt": Family(
        "OPTForCausalLM",
        "OPTForSequenceClassification",
        _read_opt,
        _write_opt,
        defaults={**_OPT, "_remove_final_layer_norm": False},
        required={"activation_function": "relu", "layer_norm_elementwise_affine": True},
    ),
}


def from_hugging_face(config: Mapping[str, Any], source: str) -> Architecture:
    """The architecture of a Hugging Face `config.json`.

    Fields that transformers itself does not read for the family are ignored here as there. Every one that it reads is
    either followed or, where this network computes one value alone, checked. `source` is the file's path, for messages.

    Raises:
      UserError: the model type or a field that would change the result is not supported, or a field is missing.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"{source}: holds {type(config).__name__}, expected an object")
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise UserError(f"{source}: model_type is {kind!r}; supported: {', '.join(map(repr, FAMILIES))}")
    for key, expected in {**_REQUIRED, **family.required}.items():
        if config.get(key, expected) != expected:
            raise UserError(f"{source}: {key} is {config[key]!r}; only {expected!r} is supported")
    try:
        a = family.read(Fields(config, family.defaults))
    except KeyError as missing:
        raise UserError(f"{source}: the field {missing} is missing") from None
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    if a.heads % a.kv_heads:
        raise UserError(f"{source}: {a.kv_heads} key-value heads do not divide {a.heads} attention heads")
    if a.rotary is not None and a.head_dim % 2:
        raise UserError(f"{source}: head_dim is {a.head_dim}; rotary positions need an even one")
    return a


def to_hugging_face(architecture: Architecture) -> dict[str, Any]:
    """The `config.json` of an architecture as a causal LM. `from_hugging_face` reads it back unchanged."""
    family = FAMILIES[architecture.family]
    names = {"architectures": [family.model_class], "model_type": architecture.family}
    return {**names, **family.write(architecture)}


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
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor JSON
        raise UserError(f"{path}: not valid JSON ({error})") from None
    return from_hugging_face(config, str(path))
