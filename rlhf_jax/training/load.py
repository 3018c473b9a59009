"""Networks as stages see them: a base model cut at its trunk's edge, and the tops that other runs trained on it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import Pretrained, load
from rlhf_jax.models.scan import UNROLLED, Blocks
from rlhf_jax.models.transformer import Params
from rlhf_jax.parallel import file_layout, sharding
from rlhf_jax.parallel.devices import default_dtype
from rlhf_jax.training.checkpoint import load_meta, load_top


def load_base(model: str, freeze: float, dtype: str, ids: int | None = None, blocks: Blocks = UNROLLED) -> Pretrained:
    """A pretrained model for a stage.

    Args:
      model: its name, as `assets.resolve` takes it.
      freeze: fraction of frozen blocks.
      dtype: "auto", "float32" or "bfloat16".
      ids: how many ids the tokenizer knows, as in `Model`.
      blocks: how they are held, run and differentiated.

    Raises:
      UserError: see `models.hf.pretrained.load`.
    """
    if not 0.0 <= freeze < 1.0:
        raise UserError(f"config.freeze is {freeze}, expected a fraction from 0 up to, not including, 1")
    return load(model, freeze, default_dtype(dtype), ids, sharding.shards("vocab"), blocks)


def load_policy(model: str, run: str, dtype: str, ids: int | None = None, blocks: Blocks = UNROLLED) -> Pretrained:
    """The policy that a run trained, on its trunk.

    Args:
      model: the base model's name.
      run: the folder of an sft or ppo run. "" for the base model itself.
      dtype: as `load_base`.
      ids: as `load_base`.
      blocks: as `load_base`.

    Raises:
      UserError: the run has no complete checkpoint, holds no policy, or was trained on another trunk or architecture.
    """
    if not run:
        return load_base(model, 0.0, dtype, ids, blocks)
    freeze = float(load_meta(Path(run))["freeze"])
    base = load_base(model, freeze, dtype, ids, blocks)
    top, _ = load_top_on(base, run, "policy")
    return base._replace(top={key: top[key] for key in base.top})


def load_top_on(base: Pretrained, run: str, role: str) -> tuple[Params, dict[str, Any]]:
    """A run's top and what its checkpoint says about it.

    Args:
      base: the network whose trunk the top must belong to.
      run: the run's folder.
      role: "policy" or "reward".

    Raises:
      UserError: no complete checkpoint, another role, another trunk, or arrays that are not this architecture's.
    """
    top, meta = load_top(Path(run))
    if meta["role"] != role:
        raise UserError(f"{run} holds a {meta['role']}, expected a {role}")
    if meta["trunk"] != base.fingerprint:
        raise UserError(
            f"{run} was trained on the trunk {meta['trunk'][:12]} (freeze {meta['freeze']}), "
            f"which is not this model's {base.fingerprint[:12]} (freeze {base.model.freeze})"
        )
    alone = file_layout.cut_vocabulary(
        file_layout.unstacked(jax.eval_shape(lambda: base.top)), base.model.architecture.vocabulary
    )
    expected, found = _shapes(alone), _shapes({key: top[key] for key in base.top if key in top})
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{run} holds {name} with the shape {found.get(name)}, this model's is {expected.get(name)}"
            )
    top = file_layout.stacked(top, base.model.runs)
    top |= {key: jax.tree.map(file_layout.pad_vocabulary, top[key], base.top[key]) for key in base.top}
    axes = base.model.logical_axes()

    def place(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        return sharding.place(np.asarray(leaf, np.float32), axes.get(_name(path), (None,) * leaf.ndim))

    return jax.tree.map_with_path(place, top), meta


def load_reward(base: Pretrained, run: str) -> tuple[Params, float, float]:
    """A reward model on its trunk, and the mean and std that its raw scores are normalised by.

    Raises:
      UserError: as `load_top_on`, or the run ended before it had fitted them.
    """
    top, meta = load_top_on(base, run, "reward")
    if "mean" not in meta:
        raise UserError(f"{run} has no normalisation constants; let its training end first")
    return top, meta["mean"], meta.get("std", meta.get("deviation"))  # its name until 0.1.0


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(params)
    return {_name(path): leaf.shape for path, leaf in leaves}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def describe(base: Pretrained, role: str) -> dict[str, Any]:
    """Description of a top for its checkpoint, as `load_top_on` reads it."""
    return {"role": role, "trunk": base.fingerprint, "freeze": base.model.freeze}
