"""Stage `export`: what a run trained, joined with its trunk, as a folder that `transformers` loads."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from rlhf_jax.config import content_of
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.hf.pretrained import DTYPES, save_pretrained, save_reward_model
from rlhf_jax.models.transformer import merge
from rlhf_jax.training.checkpoint import load_meta
from rlhf_jax.training.load import load_base, load_reward, load_top_on


@dataclasses.dataclass(frozen=True)
class Config:
    """Export of one checkpoint.

    Attributes:
      stage: "export".
      model: base model, as `assets.resolve` takes it.
      run: folder of an sft, ppo or reward run.
      dtype: of the tensors: "float32", "bfloat16" or "float16".
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("model/config.json", "model")

    stage: str
    model: str = content_of("model")
    run: str = content_of("run")
    dtype: str


def check(config: Config) -> None:
    """Raises UserError for another dtype."""
    if config.dtype not in DTYPES:
        raise UserError(f"config.dtype is {config.dtype!r}, expected one of {', '.join(DTYPES)}")


def run(config: Config, workdir: Path) -> None:
    """Writes `workdir/model`: a policy as a causal LM, a reward model as a sequence classifier with one label.

    Raises:
      UserError: bad input, named.
    """
    check(config)
    folder = workdir / "model"
    tokenizer = load_tokenizer(config.model)
    meta = load_meta(Path(config.run))
    base = load_base(config.model, float(meta["freeze"]), "float32")
    if meta["role"] == "policy":
        top, _ = load_top_on(base, config.run, "policy")
        save_pretrained(folder, base.model, merge(base.trunk, top), tokenizer, config.dtype)
    else:
        top, mean, std = load_reward(base, config.run)
        save_reward_model(folder, base.model, merge(base.trunk, top), tokenizer, mean, std, config.dtype)
    print(f"{folder}: the {meta['role']} of {config.run}, for transformers", flush=True)
