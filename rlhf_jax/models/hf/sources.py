"""Sources of tensors: a Hugging Face folder (safetensors or PyTorch's own format) or a GGUF file."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.models.architecture import Architecture
from rlhf_jax.models.hf.families import read_config
from rlhf_jax.models.hf.gguf import GGUFSource
from rlhf_jax.models.hf.layout import entries
from rlhf_jax.models.hf.torch_file import open_checkpoint


class Source(Protocol):
    """Tensors of an architecture under the names that transformers gives them in a causal LM."""

    architecture: Architecture

    def names(self) -> set[str]:
        """Names of all tensors."""

    def tensor(self, name: str) -> np.ndarray:
        """One tensor, read on demand."""

    def digest(self, name: str) -> str:
        """SHA-256 of the tensor as stored, before any conversion."""


class FolderSource:
    """A Hugging Face folder: `config.json`, and weights in one file or in those that an index lists.

    Safetensors come first. `pytorch_model.bin` is read where there are none.

    Raises:
      UserError: no config, no weights, or a file that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.architecture = read_config(folder)
        stored = stored_tensors(folder)
        # A checkpoint of the network without its head leaves the prefix out.
        bare = not any(name.startswith("model.") for name in stored)
        self._stored = {f"model.{name}" if bare and name != "lm_head.weight" else name: t for name, t in stored.items()}
        if self.architecture.tied and self._has_own_head():
            self.architecture = dataclasses.replace(self.architecture, tied=False)

    def _has_own_head(self) -> bool:
        """True if the weights have a head that is not the embedding. Then transformers does not tie them either."""
        embedding = next(iter(next(entries(self.architecture, self.architecture.vocabulary)).tensors))
        if not {embedding, "lm_head.weight"} <= self._stored.keys():
            return False
        return not np.array_equal(self.tensor(embedding), self.tensor("lm_head.weight"))

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._stored)

    def tensor(self, name: str) -> np.ndarray:
        """One tensor in its stored dtype."""
        return self._stored[name].read()

    def digest(self, name: str) -> str:
        """SHA-256 of the tensor's bytes in row-major order."""
        return digest_of(self.tensor(name))


class StoredTensor(Protocol):
    """A tensor in a file."""

    def read(self) -> np.ndarray:
        """The tensor in its stored dtype."""


def digest_of(tensor: np.ndarray) -> str:
    """SHA-256 of a tensor's bytes in row-major order."""
    return hashlib.sha256(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)).hexdigest()


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors in a folder's files of weights, under the names they have there.

    Raises:
      UserError: no weights, or a file that cannot be read.
    """
    stored: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        stored |= _open_torch(file) if file.suffix == ".bin" else _open_safetensors(file)
    return stored


class _SafeTensor:
    """A tensor of an open safetensors file, which is mapped and not read."""

    def __init__(self, file: Path, handle: Any, name: str) -> None:
        self._file, self._handle, self._name = file, handle, name

    def read(self) -> np.ndarray:
        try:
            return self._handle.get_tensor(self._name)
        except AttributeError:  # of NumPy, which has no such dtype
            kind = self._handle.get_slice(self._name).get_dtype()
            raise UserError(f"{self._file}: {self._name} has the dtype {kind}, expected 16 bits or more") from None


def _weight_files(folder: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):  # and the file before its index, as in transformers
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            return [folder / name]
        if index.exists():
            return [folder / file for file in _indexed(index)]
    raise UserError(f"{folder}: neither model.safetensors nor pytorch_model.bin is there; expected weights")


def _indexed(index: Path) -> list[str]:
    try:
        files = {str(file) for file in json.loads(index.read_text())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: no JSON with a weight_map ({error})") from None
    if outside := [file for file in files if Path(file).name != file]:
        raise UserError(f"{index}: {outside[0]!r} is not a file of this folder")
    return sorted(files)


def _open_safetensors(file: Path) -> Mapping[str, StoredTensor]:
    import safetensors

    try:
        handle = safetensors.safe_open(file, framework="numpy")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; expected weights beside config.json") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a readable safetensors file ({error})") from None
    return {name: _SafeTensor(file, handle, name) for name in handle.keys()}  # noqa: SIM118 (a handle is no dict)


def _open_torch(file: Path) -> Mapping[str, StoredTensor]:
    if not file.exists():
        raise UserError(f"{file}: no such file; expected weights beside config.json")
    return open_checkpoint(file)


def open_source(path: Path) -> Source:
    """The tensors of a model's folder or `.gguf` file, as `assets.resolve` finds them.

    Raises:
      UserError: it cannot be read.
    """
    return GGUFSource(path) if path.suffix == ".gguf" else FolderSource(path)
