"""Hugging Face folders and GGUF files <-> parameters, one tensor at a time.

A *source* (`GGUFSource`, `SafetensorsSource`) gives an architecture and tensors under their Hugging Face names; `read`
lays them out as this project's parameters, each one cast as soon as it is read. `save_pretrained` is the way back.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from rlhf_jax import assets
from rlhf_jax.errors import UserError
from rlhf_jax.models.families import Architecture, read_config, to_hugging_face
from rlhf_jax.models.gguf import GGUFSource
from rlhf_jax.models.transformer import Model, Params


class Source(Protocol):
    """Where tensors come from."""

    architecture: Architecture

    def names(self) -> set[str]: ...

    def tensor(self, name: str) -> np.ndarray: ...

    def digest(self, name: str) -> str: ...


class SafetensorsSource:
    """A Hugging Face folder: `config.json` and `model.safetensors`, single or sharded by its index.

    Raises:
      UserError: no config, no weights, or a file that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.architecture = read_config(folder)
        index = folder / "model.safetensors.index.json"
        if index.exists():
            try:
                files = {folder / file for file in json.loads(index.read_text())["weight_map"].values()}
            except (json.JSONDecodeError, KeyError) as error:
                raise UserError(f"{index}: no JSON with a weight_map ({error})") from None
        else:
            files = {folder / "model.safetensors"}
        self._file: dict[str, Path] = {}
        for file in sorted(files):
            for name in self._open(file).keys():  # noqa: SIM118 (a safetensors handle is no dict)
                self._file[name] = file

    @staticmethod
    def _open(file: Path):
        import safetensors

        try:
            return safetensors.safe_open(file, framework="flax")
        except FileNotFoundError:
            raise UserError(f"{file}: no such file; expected weights beside config.json") from None
        except safetensors.SafetensorError as error:
            raise UserError(f"{file}: not a readable safetensors file ({error})") from None

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._file)

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as stored."""
        return np.asarray(self._open(self._file[name]).get_tensor(name))

    def digest(self, name: str) -> str:
        """SHA-256 of the tensor as stored."""
        return hashlib.sha256(np.ascontiguousarray(self.tensor(name)).view(np.uint8)).hexdigest()


def _kernels(a: Architecture) -> dict[str, tuple[list[str], Callable, Callable]]:
    """One block's parameters: path -> (Hugging Face names, their arrays -> parameter, parameter -> their arrays)."""
    heads, kv, group, d = a.heads, a.kv_heads, a.group, a.head_dim

    def join_qkv(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        grouped = [q.reshape(kv, group, d, -1), k.reshape(kv, 1, d, -1), v.reshape(kv, 1, d, -1)]
        return np.concatenate(grouped, axis=1).transpose(3, 0, 1, 2)

    def split_qkv(kernel: np.ndarray) -> list[np.ndarray]:
        rows = kernel.transpose(1, 2, 3, 0)
        return [part.reshape(-1, a.width) for part in (rows[:, :group], rows[:, group], rows[:, group + 1])]

    def same(x: np.ndarray) -> list[np.ndarray]:
        return [x]

    def join_gate_up(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        return np.stack([gate.T, up.T], axis=1)

    return {
        "attention_norm/scale": (["input_layernorm"], lambda x: x, same),
        "qkv/kernel": ([f"self_attn.{x}_proj" for x in "qkv"], join_qkv, split_qkv),
        "out/kernel": (
            ["self_attn.o_proj"],
            lambda x: x.T.reshape(kv, group, d, a.width),
            lambda x: [x.reshape(heads * d, a.width).T],
        ),
        "mlp_norm/scale": (["post_attention_layernorm"], lambda x: x, same),
        "mlp/gate_up": (
            ["mlp.gate_proj", "mlp.up_proj"],
            join_gate_up,
            lambda x: [x[:, 0].T, x[:, 1].T],
        ),
        "mlp/down/kernel": (["mlp.down_proj"], lambda x: x.T, lambda x: [x.T]),
    }


def _plan(a: Architecture) -> Iterator[tuple[str, list[str], Callable, Callable]]:
    """Every parameter of the causal LM: `(path, Hugging Face names, join, split)`."""
    yield "embed/table", ["model.embed_tokens.weight"], lambda x: x, lambda x: [x]
    for layer in range(a.layers):
        for path, (names, join, split) in _kernels(a).items():
            full = [f"model.layers.{layer}.{name}.weight" for name in names]
            yield f"layers/{layer}/{path}", full, join, split
    yield "norm/scale", ["model.norm.weight"], lambda x: x, lambda x: [x]
    if not a.tied:
        yield "head/table", ["lm_head.weight"], lambda x: x, lambda x: [x]


def _set(tree: Params, path: str, leaf) -> None:
    *folders, name = path.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = leaf


def _get(tree: Params, path: str):
    for key in path.split("/"):
        tree = tree[key]
    return tree


def _check_names(source: Source, origin: str) -> None:
    expected = {name for _, names, _, _ in _plan(source.architecture) for name in names}
    # Rotary frequencies that old exports store, and a tied head written out, carry no information of their own.
    ignored = {n for n in source.names() if n.endswith("rotary_emb.inv_freq")}
    if source.architecture.tied:
        ignored.add("lm_head.weight")
    for kind, names in (("missing", expected - source.names()), ("unexpected", source.names() - expected - ignored)):
        if names:
            shown = ", ".join(sorted(names)[:10])
            raise UserError(f"{origin}: {len(names)} tensors are {kind}: {shown}{', ...' if len(names) > 10 else ''}")


class Pretrained(NamedTuple):
    """A loaded network, cut at the trunk's edge.

    Attributes:
      model: its functions.
      trunk: frozen parameters, in the compute dtype; empty when nothing is frozen.
      top: trainable parameters, float32.
      fingerprint: of the trunk's source tensors, before any cast; tops belong to exactly one.
    """

    model: Model
    trunk: Params
    top: Params
    fingerprint: str


def load(name: str, freeze: float, dtype: jnp.dtype) -> Pretrained:
    """Loads a model for a stage: the frozen part in the compute dtype, the trained part in float32.

    Args:
      name: a Hugging Face folder, hub name, `.gguf` file or packaged asset (`assets.resolve`).
      freeze: fraction of frozen blocks, as in `Model`.
      dtype: compute dtype.

    Raises:
      UserError: the model cannot be found or read, or its tensors do not fit its config.
    """
    path = assets.resolve(name)
    source: Source = GGUFSource(path) if path.suffix == ".gguf" else SafetensorsSource(path)
    _check_names(source, str(path))
    model = Model(source.architecture, dtype, freeze)
    trunk_digest = hashlib.sha256()
    params: Params = {"layers": {}}
    for place, names, join, _ in _plan(source.architecture):
        frozen = _is_frozen(model, place)
        if frozen:
            for tensor in names:
                trunk_digest.update(f"{tensor} {source.digest(tensor)}\n".encode())
        tensors = [source.tensor(tensor) for tensor in names]
        try:
            joined = join(*tensors)
        except ValueError:
            shapes = ", ".join(f"{n} {t.shape}" for n, t in zip(names, tensors, strict=True))
            raise UserError(f"{path}: shapes do not fit the config: {shapes}") from None
        _set(params, place, jnp.asarray(joined, dtype if frozen else jnp.float32))
    _check_shapes(model, params, str(path))
    trunk, top = model.split(params)
    return Pretrained(model, trunk, top, trunk_digest.hexdigest() if freeze else "none")


def _is_frozen(model: Model, path: str) -> bool:
    kind, *rest = path.split("/")
    return bool(model.freeze) and (
        kind in ("embed", "head") or (kind == "layers" and int(rest[0]) < model.frozen_layers)
    )


def _check_shapes(model: Model, params: Params, origin: str) -> None:
    import flax.linen as nn
    import jax

    expected = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0)))
    for place, _, _, _ in _plan(model.architecture):
        want, have = _get(expected, place).shape, _get(params, place).shape
        if want != have:
            raise UserError(f"{origin}: {place} has shape {have}; the config says {want}")


def load_pretrained(path_or_hub_name: str, dtype: str = "float32") -> tuple[Model, Params]:
    """Loads a LLaMA-shaped causal LM whole.

    Args:
      path_or_hub_name: a Hugging Face folder, hub name, `.gguf` file or packaged asset.
      dtype: compute dtype, "float32" or "bfloat16"; parameters are float32.

    Returns:
      `(model, params)`.

    Raises:
      UserError: another dtype, or as `load`.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"the dtype is {dtype!r}, expected 'float32' or 'bfloat16'")
    loaded = load(path_or_hub_name, freeze=0.0, dtype=jnp.dtype(dtype))
    return loaded.model, loaded.top


def save_pretrained(folder: str | os.PathLike, model: Model, params: Params) -> None:
    """Writes `config.json` and `model.safetensors` that `transformers` loads as a causal LM.

    Args:
      folder: made if it does not exist.
      model: the architecture.
      params: all parameters of the causal LM, any dtype; heads of roles are left out.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, np.ndarray] = {}
    for place, names, _, split in _plan(model.architecture):
        for name, array in zip(names, split(np.asarray(_get(params, place))), strict=True):
            tensors[name] = np.ascontiguousarray(array)
    dtype = str(next(iter(tensors.values())).dtype)
    _write(folder / "config.json", {**to_hugging_face(model.architecture), "dtype": dtype})
    temporary = folder / "model.safetensors.partial"
    save_file(tensors, temporary, metadata={"format": "pt"})
    os.replace(temporary, folder / "model.safetensors")


def _write(path: Path, content: Mapping) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, path)
