"""Layout of Hugging Face's tensors: the name, shape and row order of each parameter.

Hugging Face stores a linear map as `[outputs, inputs]`, queries, keys and values apart, and gate and up apart. Here a
kernel is `[*inputs, *outputs]` with its heads as axes, and what is multiplied together is stored together.

Shape letters as in `transformer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.models.architecture import POSITION_OFFSET, Architecture

type Shape = tuple[int, ...]


class Entry(NamedTuple):
    """One parameter.

    Attributes:
      path: where it is in the nested dict, joined by "/".
      tensors: Hugging Face names and shapes of what it is made of.
      join: those arrays, in that order, to the parameter.
      split: the way back.
    """

    path: str
    tensors: Mapping[str, Shape]
    join: Callable[..., np.ndarray]
    split: Callable[[np.ndarray], list[np.ndarray]]


# What transformers calls the parts; `{}` stands for the layer.
_LLAMA_NAMES = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "attention_norm": "model.layers.{}.input_layernorm",
    "q": "model.layers.{}.self_attn.q_proj",
    "k": "model.layers.{}.self_attn.k_proj",
    "v": "model.layers.{}.self_attn.v_proj",
    "q_norm": "model.layers.{}.self_attn.q_norm",
    "k_norm": "model.layers.{}.self_attn.k_norm",
    "out": "model.layers.{}.self_attn.o_proj",
    "mlp_norm": "model.layers.{}.post_attention_layernorm",
    "gate": "model.layers.{}.mlp.gate_proj",
    "up": "model.layers.{}.mlp.up_proj",
    "down": "model.layers.{}.mlp.down_proj",
}
_OPT_NAMES = {
    "embed": "model.decoder.embed_tokens",
    "positions": "model.decoder.embed_positions",
    "project_in": "model.decoder.project_in",
    "project_out": "model.decoder.project_out",
    "norm": "model.decoder.final_layer_norm",
    "attention_norm": "model.decoder.layers.{}.self_attn_layer_norm",
    "q": "model.decoder.layers.{}.self_attn.q_proj",
    "k": "model.decoder.layers.{}.self_attn.k_proj",
    "v": "model.decoder.layers.{}.self_attn.v_proj",
    "out": "model.decoder.layers.{}.self_attn.out_proj",
    "mlp_norm": "model.decoder.layers.{}.final_layer_norm",
    "up": "model.decoder.layers.{}.fc1",
    "down": "model.decoder.layers.{}.fc2",
}


def entries(a: Architecture, rows: int) -> Iterator[Entry]:
    """Every parameter of a causal LM, from the embedding up.

    Args:
      a: the architecture.
      rows: rows that the embedding and the LM head are stored with here. Those past V are zero and not exported.
    """
    names = _OPT_NAMES if a.family == "opt" else _LLAMA_NAMES
    embed_shape = (a.vocabulary, a.outer_width)
    yield _padded("embed/table", f"{names['embed']}.weight", embed_shape, rows)
    if a.embed_width:
        yield _linear("embed/project", f"{names['project_in']}.weight", (a.outer_width,), (a.width,))
    if a.rotary is None:
        positions = (a.max_length + POSITION_OFFSET, a.width)
        yield _same("embed/positions", f"{names['positions']}.weight", positions)
    for layer in range(a.layers):
        inside = {part: name.format(layer) for part, name in names.items() if "{}" in name}
        yield from _block_entries(a, f"layers/{layer}", inside)
    if a.final_norm:
        yield from _norm_entries(a, "norm", names["norm"])
    if a.embed_width:
        yield _linear("head/project", f"{names['project_out']}.weight", (a.width,), (a.outer_width,))
    if not a.tied:
        yield _padded("head/table", "lm_head.weight", embed_shape, rows)


def _block_entries(a: Architecture, path: str, names: Mapping[str, str]) -> Iterator[Entry]:
    heads = (a.kv_heads, a.group, a.head_dim)
    yield from _norm_entries(a, f"{path}/attention_norm", names["attention_norm"])
    yield _queries_keys_values(a, f"{path}/qkv/kernel", [f"{names[x]}.weight" for x in "qkv"], (a.width,))
    if a.qkv_bias:
        yield _queries_keys_values(a, f"{path}/qkv/bias", [f"{names[x]}.bias" for x in "qkv"], ())
    if a.qk_norm:
        yield _same(f"{path}/q_norm/scale", f"{names['q_norm']}.weight", (a.head_dim,))
        yield _same(f"{path}/k_norm/scale", f"{names['k_norm']}.weight", (a.head_dim,))
    yield _linear(f"{path}/out/kernel", f"{names['out']}.weight", heads, (a.width,))
    if a.out_bias:
        yield _same(f"{path}/out/bias", f"{names['out']}.bias", (a.width,))
    yield from _norm_entries(a, f"{path}/mlp_norm", names["mlp_norm"])
    if a.gated:
        both = [names["gate"], names["up"]]
        yield _gate_and_up(a, f"{path}/mlp/gate_up", [f"{name}.weight" for name in both], (a.width,))
        if a.mlp_bias:
            yield _gate_and_up(a, f"{path}/mlp/gate_up_bias", [f"{name}.bias" for name in both], ())
    else:
        yield _linear(f"{path}/mlp/up/kernel", f"{names['up']}.weight", (a.width,), (a.mlp_features,))
        if a.mlp_bias:
            yield _same(f"{path}/mlp/up/bias", f"{names['up']}.bias", (a.mlp_features,))
    yield _linear(f"{path}/mlp/down/kernel", f"{names['down']}.weight", (a.mlp_features,), (a.width,))
    if a.mlp_bias:
        yield _same(f"{path}/mlp/down/bias", f"{names['down']}.bias", (a.width,))


def _norm_entries(a: Architecture, path: str, name: str) -> Iterator[Entry]:
    yield _same(f"{path}/scale", f"{name}.weight", (a.width,))
    if a.norm == "layer":
        yield _same(f"{path}/bias", f"{name}.bias", (a.width,))


def _same(path: str, name: str, shape: Shape) -> Entry:
    return Entry(path, {name: shape}, lambda x: x, lambda x: [x])


def _padded(path: str, name: str, shape: Shape, rows: int) -> Entry:
    return Entry(
        path,
        {name: shape},
        lambda table: np.pad(table, ((0, rows - shape[0]), (0, 0))) if rows > shape[0] else table,
        lambda table: [table[: shape[0]]],
    )


def _linear(path: str, name: str, inputs: Shape, outputs: Shape) -> Entry:
    shape = (math.prod(outputs), math.prod(inputs))
    return Entry(path, {name: shape}, lambda w: w.T.reshape(*inputs, *outputs), lambda x: [x.reshape(*shape[::-1]).T])


def _queries_keys_values(a: Architecture, path: str, names: list[str], inputs: Shape) -> Entry:
    """Rows `[H * d]`, `[K * d]`, `[K * d]` (times D, of a kernel) to `[(D,) K, G + 2, d]`."""
    sizes = (a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.head_dim)

    def join(*parts: np.ndarray) -> np.ndarray:
        joined = np.concatenate([part.reshape(a.kv_heads, -1, a.head_dim, *inputs) for part in parts], axis=1)
        return np.moveaxis(joined, -1, 0) if inputs else joined

    def split(param: np.ndarray) -> list[np.ndarray]:
        rows = np.moveaxis(param, 0, -1) if inputs else param
        parts = (rows[:, : a.group], rows[:, a.group], rows[:, a.group + 1])
        return [part.reshape(size, *inputs) for part, size in zip(parts, sizes, strict=True)]

    return Entry(path, {name: (size, *inputs) for name, size in zip(names, sizes, strict=True)}, join, split)


def _gate_and_up(a: Architecture, path: str, names: list[str], inputs: Shape) -> Entry:
    """Two of `[F]` (times D, of a kernel) to `[(D,) 2, F]`."""
    return Entry(
        path,
        dict.fromkeys(names, (a.mlp_features, *inputs)),
        lambda gate, up: np.stack([gate.T, up.T], axis=-2),
        lambda x: [x[..., 0, :].T, x[..., 1, :].T],
    )


def get(tree: Mapping[str, Any], path: str) -> Any:
    """The leaf of a nested dict at a path joined by "/"."""
    for key in path.split("/"):
        tree = tree[key]
    return tree


def put(tree: dict[str, Any], path: str, leaf: Any) -> None:
    """Sets the leaf of a nested dict at a path joined by "/". Makes the dicts on the way."""
    *folders, name = path.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = leaf
