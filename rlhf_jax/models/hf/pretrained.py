"""Hugging Face folders and GGUF files <-> parameters, one tensor at a time.

`load` turns the tensors of a source into this project's parameters and casts each one as soon as it is read.
`save_pretrained` and `save_reward_model` are the way back, to folders that `transformers` loads.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rlhf_jax import assets
from rlhf_jax.errors import UserError
from rlhf_jax.files import PARTIAL, together
from rlhf_jax.models.hf import layout
from rlhf_jax.models.hf.families import FAMILIES, to_hugging_face
from rlhf_jax.models.hf.sources import Source, open_source
from rlhf_jax.models.quantize import is_quantised, quantise, scale_path
from rlhf_jax.models.scan import UNROLLED, Blocks
from rlhf_jax.models.transformer import Model, Params
from rlhf_jax.parallel import file_layout, sharding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARD_BYTES = 5_000_000_000  # of one safetensors file
INDEX = "model.safetensors.index.json"
DTYPES = ("float32", "bfloat16", "float16")
REWARD_PAD = "<|reward_pad|>"
_FLOATS = [jnp.dtype(name) for name in (*DTYPES, "float64")]


class Pretrained(NamedTuple):
    """A loaded network, cut at the trunk's edge."""

    model: Model
    trunk: Params  # frozen, in the compute dtype. Empty when nothing is frozen
    top: Params  # trainable, float32
    fingerprint: str  # of the trunk's source tensors, before any cast. Tops belong to exactly one


def load(
    name: str,
    freeze: float,
    dtype: jnp.dtype,
    ids: int | None = None,
    vocabulary_multiple: int = 1,
    blocks: Blocks = UNROLLED,
    check_finite: bool = False,
    source: Source | None = None,
) -> Pretrained:
    """Loads a model for a stage: the frozen part in the compute dtype, the trained part in float32.

    Args:
      name: a Hugging Face folder, hub name, `.gguf` file or packaged asset (`assets.resolve`).
      freeze, dtype, ids, vocabulary_multiple, blocks: as in `Model`.
      check_finite: True to look for NaN and infinity in every tensor, which reads them once more.
      source: the tensors, if they are open already. Messages still name `name`.

    Raises:
      UserError: the model cannot be found or read, its tensors do not fit its config, the tokenizer knows more ids than
        the embedding has rows, or a tensor is not finite.
    """
    path = assets.resolve(name)
    source = open_source(path) if source is None else source
    try:
        model = Model(source.architecture, dtype, freeze, ids, vocabulary_multiple, blocks)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    entries = list(layout.entries(source.architecture, model.rows))
    _check_names(source, entries, path)
    axes = model.logical_axes()
    params: dict[str, Any] = {}
    for stored_path, parts in _by_stored_path(model, entries).items():
        blocks_of: dict[str, list[np.ndarray]] = defaultdict(list)
        for entry in parts:
            tensors = [_read(source, tensor, shape, path, check_finite) for tensor, shape in entry.tensors.items()]
            for name, array in _as_stored(model, axes, stored_path, entry.join(*tensors)).items():
                blocks_of[name].append(array)
        for name, arrays in blocks_of.items():
            array = np.stack(arrays) if len(axes[name]) > arrays[0].ndim else arrays[0]
            params[name] = sharding.place(array, axes[name])
    frozen = (tensor for entry in entries if model.is_frozen(entry.path) for tensor in entry.tensors)
    digests = "".join(f"{tensor} {source.digest(tensor)}\n" for tensor in frozen)
    trunk, top = model.split(unflatten_dict(params, sep="/"))
    return Pretrained(model, trunk, top, hashlib.sha256(digests.encode()).hexdigest() if freeze else "none")


def _by_stored_path(model: Model, entries: Sequence[layout.Entry]) -> dict[str, list[layout.Entry]]:
    """The entries by the path of the parameter that they are, or are stacked to."""
    names = {str(i): file_layout.group_name(run) for run in model.runs for i in run}
    found: dict[str, list[layout.Entry]] = defaultdict(list)
    for entry in entries:
        kind, *rest = entry.path.split("/")
        found["/".join([kind, names[rest[0]], *rest[1:]]) if kind == "layers" else entry.path].append(entry)
    return found


def _as_stored(
    model: Model, axes: Mapping[str, Sequence[str | None]], path: str, array: np.ndarray
) -> dict[str, np.ndarray]:
    """One block's part of a parameter in its dtype in memory, or as int8 and a scale, by their paths."""
    if not is_quantised(path, axes):
        return {path: np.asarray(array, model.dtype if model.is_frozen(path) else jnp.float32)}
    scale = scale_path(path)
    return dict(zip((path, scale), quantise(array, len(axes[path]) - len(axes[scale]), model.dtype), strict=True))


def _check_names(source: Source, entries: Sequence[layout.Entry], path: Path) -> None:
    """Refuses missing and unexpected tensors."""
    expected = {name for entry in entries for name in entry.tensors}
    # Buffers of old exports and a tied head written out carry no information of their own.
    ignored = {name for name in source.names() if name.endswith((".rotary_emb.inv_freq", ".masked_bias", ".version"))}
    if source.architecture.tied:
        ignored.add("lm_head.weight")
    for kind, names in (("missing", expected - source.names()), ("unexpected", source.names() - expected - ignored)):
        if names:
            shown = ", ".join(sorted(names)[:10])
            raise UserError(f"{path}: {len(names)} tensors are {kind}: {shown}{', ...' if len(names) > 10 else ''}")


def _read(source: Source, name: str, shape: layout.Shape, path: Path, check_finite: bool) -> np.ndarray:
    tensor = source.tensor(name)
    if tensor.shape != shape:
        raise UserError(f"{path}: {name} has the shape {tensor.shape}, the config says {shape}")
    if tensor.dtype not in _FLOATS:
        raise UserError(f"{path}: {name} has the dtype {tensor.dtype}, expected one of {', '.join(map(str, _FLOATS))}")
    if check_finite and not np.isfinite(tensor).all():
        raise UserError(f"{path}: {name} holds numbers that are not finite")
    return tensor


def load_pretrained(path_or_hub_name: str, dtype: str = "float32", check_finite: bool = False) -> tuple[Model, Params]:
    """Loads a causal LM of any family whole, with parameters in float32.

    Args:
      path_or_hub_name: a Hugging Face folder, hub name, `.gguf` file or packaged asset.
      dtype: compute dtype, "float32" or "bfloat16".
      check_finite: True to look for NaN and infinity in every tensor.

    Raises:
      UserError: another dtype, or as `load`.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"the dtype is {dtype!r}, expected 'float32' or 'bfloat16'")
    loaded = load(path_or_hub_name, freeze=0.0, dtype=jnp.dtype(dtype), check_finite=check_finite)
    return loaded.model, loaded.top


def to_hugging_face_tensors(model: Model, params: Params) -> dict[str, np.ndarray]:
    """The parameters of a causal LM under the names of transformers. Heads of roles and padded rows are left out.

    The arrays are views of the parameters' copies on the host, not contiguous.
    """
    tensors: dict[str, np.ndarray] = {}
    leaves = flatten_dict(file_layout.unstacked(params), sep="/")
    for entry in layout.entries(model.architecture, model.rows):
        tensors |= zip(entry.tensors, entry.split(np.asarray(leaves[entry.path])), strict=True)
    return tensors


def save_pretrained(
    folder: str | os.PathLike,
    model: Model,
    params: Params,
    tokenizer: PreTrainedTokenizerFast | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a folder that `transformers` loads as a causal LM: config, safetensors and the tokenizer's files.

    Args:
      folder: made if it does not exist.
      model: the architecture.
      params: all parameters of the causal LM, trunk and top merged. Heads of roles are left out.
      tokenizer: written beside, with a generation config that names its special tokens. None leaves both out.
      dtype: of the tensors, "float32", "bfloat16" or "float16". None keeps each as it is.
      shard_bytes: of one file of weights. More than one file come with an index.

    Raises:
      UserError: another dtype.
    """
    config = to_hugging_face(model.architecture)
    tensors = to_hugging_face_tensors(model, params)
    texts = {}
    if tokenizer is not None:
        special = _special_ids(tokenizer)
        config |= special
        texts["generation_config.json"] = {"_from_model_config": True, **special}
    _write_model(Path(folder), config, tensors, tokenizer, texts, dtype, shard_bytes)


def save_reward_model(
    folder: str | os.PathLike,
    model: Model,
    params: Params,
    tokenizer: PreTrainedTokenizerFast,
    mean: float,
    std: float,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a folder that `transformers` loads as a sequence classifier with one label, the raw score.

    transformers reads the score at the last id that is not the pad id, so a pad id that could end a response would move
    it. The folder's pad token is therefore a new one, `REWARD_PAD`, that no model here samples. It has a row of zeros
    if the embedding has none to spare. The normalisation constants are in the config, as `reward_mean` and
    `reward_std`.

    Args:
      folder: made if it does not exist.
      model: the architecture.
      params: all parameters of the reward model, trunk and top merged, with its head `reward`.
      tokenizer: the policy's. It is not changed.
      mean, std: of raw scores. The normalised score is `(score - mean) / std`.
      dtype, shard_bytes: as `save_pretrained`.

    Raises:
      UserError: another dtype, or a tokenizer whose ids have a hole.
    """
    tokenizer = copy.deepcopy(tokenizer)
    first_free = max(tokenizer.get_vocab().values()) + 1
    tokenizer.add_special_tokens({"pad_token": REWARD_PAD})
    if tokenizer.pad_token_id < first_free:
        found = tokenizer.pad_token_id
        raise UserError(f"the tokenizer's ids have a hole: a new pad token became {found}, expected {first_free}")
    tensors = to_hugging_face_tensors(model, params)
    tensors.pop("lm_head.weight", None)
    tensors["score.weight"] = np.asarray(params["reward"]["kernel"])[None, :]
    embedding = next(iter(tensors))  # the first entry of the layout
    missing = max(0, tokenizer.pad_token_id + 1 - len(tensors[embedding]))
    tensors[embedding] = np.pad(tensors[embedding], ((0, missing), (0, 0)))
    config = {
        **to_hugging_face(model.architecture),
        **_special_ids(tokenizer),
        "architectures": [FAMILIES[model.architecture.family].classifier_class],
        "vocab_size": len(tensors[embedding]),
        "num_labels": 1,
        "id2label": {"0": "score"},
        "label2id": {"score": 0},
        "problem_type": "regression",
        "reward_mean": mean,
        "reward_std": std,
    }
    _write_model(Path(folder), config, tensors, tokenizer, {}, dtype, shard_bytes)


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: value for name in names if (value := getattr(tokenizer, name)) is not None}


def _write_model(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    tokenizer: PreTrainedTokenizerFast | None,
    texts: Mapping[str, Mapping[str, Any]],
    dtype: str | None,
    shard_bytes: int,
) -> None:
    """Writes a model into a folder: the old one, none (without a config.json) or the new one is there.

    Files that are no model's stay.
    """
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.numpy import save_file

    if dtype not in (None, *DTYPES):
        raise UserError(f"the dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    stored = {name: jnp.dtype(dtype) if dtype else tensor.dtype for name, tensor in tensors.items()}
    plan = split_state_dict_into_shards_factory(
        {name: tensors[name].size * stored[name].itemsize for name in tensors},
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    texts = {"config.json": {**config, "dtype": str(next(iter(stored.values())))}, **texts}
    if plan.is_sharded:
        texts[INDEX] = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    folder = folder.resolve()
    old = [INDEX, *(path.name for path in folder.glob("model*.safetensors"))]  # of another model, or in other shards
    with together(folder, "config.json", old, folder.parent / PARTIAL / folder.name) as partial:
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        for name, content in texts.items():
            (partial / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        for file, names in plan.filename_to_tensors.items():
            shard = {name: np.ascontiguousarray(tensors[name], stored[name]) for name in names}
            save_file(shard, partial / file, metadata={"format": "pt"})
