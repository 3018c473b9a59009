"""Layout of Hugging Face's tensors: the name, shape and row order of each parameter.

Hugging Face stores a linear map as `[outputs, inputs]`, queries, keys and values apart, and gate and up apart. Here a
kernel is `[*inputs, *outputs]` with its heads as axes, and maps of one product are stored together.

Shape letters as in `transformer.py`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rlhf_jax.models.architecture import POSITION_OFFSET, Architecture

type Shape = tuple[int, ...]


class Entry(NamedTuple):
    """One parameter, by its path in the nested dict ("layers/3/qkv/kernel").

    `tensors` are the Hugging Face names and shapes of the arrays that `join` makes the parameter of, in their order.
    `split` is the way back.
    """

    path: str
    tensors: Mapping[str, Shape]
    join: Callable[..., np.ndarray]
    split: Callable[[np.ndarray], list[np.ndarray]]


# The parts of a block and the norm at the end, as transformers calls them.
_LLAMA_NAMES = {
    "norm": "norm",
    "attention_norm": "input_layernorm",
    "out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_OPT_NAMES = {
    "norm": "final_layer_norm",
    "attention_norm": "self_attn_layer_norm",
    "out": "self_attn.out_proj",
    "mlp_norm": "final_layer_norm",
    "up": "fc1",
    "down": "fc2",
}


def entries(a: Architecture, rows: int) -> Iterator[Entry]:
    """Every parameter of a causal LM, from the embedding up.

    The embedding and the LM head are stored with `rows` rows here. Those past V are zero and not exported.
    """
    names, prefix = (_OPT_NAMES, "model.decoder") if a.family == "opt" else (_LLAMA_NAMES, "model")
    yield _padded("embed/table", f"{prefix}.embed_tokens.weight", (a.vocabulary, a.outer_width), rows)
    if a.embed_width:
        yield _linear("embed/project", f"{prefix}.project_in.weight", (a.outer_width,), (a.width,))
    if a.rotary is None:
        positions = (a.max_length + POSITION_OFFSET, a.width)
        yield _same("embed/positions", f"{prefix}.embed_positions.weight", positions)
    for layer in range(a.layers):
        yield from _block_entries(a, f"layers/{layer}", f"{prefix}.layers.{layer}", names)
    if a.final_norm:
        yield from _norm_entries(a, "norm", f"{prefix}.{names['norm']}")
    if a.embed_width:
        yield _linear("head/project", f"{prefix}.project_out.weight", (a.width,), (a.outer_width,))
    if not a.tied:
        yield _padded("head/table", "lm_head.weight", (a.vocabulary, a.outer_width), rows)


def _block_entries(a: Architecture, path: str, prefix: str, names: Mapping[str, str]) -> Iterator[Entry]:
    names = {part: f"{prefix}.{name}" for part, name in names.items()}
    qkv = [f"{prefix}.self_attn.{x}_proj" for x in "qkv"]
    yield from _norm_entries(a, f"{path}/attention_norm", names["attention_norm"])
    yield _queries_keys_values(a, f"{path}/qkv/kernel", [f"{name}.weight" for name in qkv], (a.width,))
    if a.qkv_bias:
        yield _queries_keys_values(a, f"{path}/qkv/bias", [f"{name}.bias" for name in qkv], ())
    if a.qk_norm:
        for norm in ("q_norm", "k_norm"):
            yield _same(f"{path}/{norm}/scale", f"{prefix}.self_attn.{norm}.weight", (a.head_dim,))
    yield from _layer_entries(f"{path}/out", names["out"], (a.kv_heads, a.group, a.head_dim), a.width, a.out_bias)
    yield from _norm_entries(a, f"{path}/mlp_norm", names["mlp_norm"])
    if a.gated:
        both = [names["gate"], names["up"]]
        yield _gate_and_up(a, f"{path}/mlp/gate_up", [f"{name}.weight" for name in both], (a.width,))
        if a.mlp_bias:
            yield _gate_and_up(a, f"{path}/mlp/gate_up_bias", [f"{name}.bias" for name in both], ())
    else:
        yield from _layer_entries(f"{path}/mlp/up", names["up"], (a.width,), a.mlp_features, a.mlp_bias)
    yield from _layer_entries(f"{path}/mlp/down", names["down"], (a.mlp_features,), a.width, a.mlp_bias)


def _layer_entries(path: str, name: str, inputs: Shape, outputs: int, bias: bool) -> Iterator[Entry]:
    yield _linear(f"{path}/kernel", f"{name}.weight", inputs, (outputs,))
    if bias:
        yield _same(f"{path}/bias", f"{name}.bias", (outputs,))


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
