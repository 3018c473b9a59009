"""Stage `recover_weight_diff`: one of AlpacaFarm's released models, made of its weight difference and LLaMA-7B."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from rlhf_jax import assets
from rlhf_jax.config import content_of
from rlhf_jax.data.tokenizer import id_count, load_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.files import remove, write_text
from rlhf_jax.models.heads import with_head
from rlhf_jax.models.hf.pretrained import DTYPES, Pretrained, load, save_pretrained
from rlhf_jax.models.hf.sources import open_source
from rlhf_jax.models.hf.weight_diff import DifferenceSource
from rlhf_jax.training.checkpoint import Checkpoints
from rlhf_jax.training.load import describe


@dataclasses.dataclass(frozen=True)
class Config:
    """A base model and a difference.

    Attributes:
      stage: "recover_weight_diff".
      base: the model that was tuned, as `assets.resolve` takes it. For AlpacaFarm's, LLaMA-7B.
      difference: folder or hub name of the difference, `tatsu-lab/alpaca-farm-sft10k-wdiff` and the like, with the
        tokenizer and `model_sum.txt`.
      dtype: of a policy's tensors: "float32", "bfloat16" or "float16". A reward model's are float32.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("sum.json", "model", "checkpoints")

    stage: str
    base: str = content_of("model")
    difference: str = content_of("model")
    dtype: str


def check(config: Config) -> None:
    """Raises UserError for another dtype."""
    if config.dtype not in DTYPES:
        raise UserError(f"config.dtype is {config.dtype!r}, expected one of {', '.join(DTYPES)}")


def run(config: Config, workdir: Path) -> None:
    """Writes `workdir/model`, a policy for `model` of any stage, or `workdir/checkpoints`, a reward model for `reward`.

    A reward model is a top with nothing frozen: it goes with a model of its architecture of which nothing is frozen
    either, as AlpacaFarm's policies. Its normalised scores are the released model's own. All of a model is in memory at
    once, in float32.

    Raises:
      UserError: a model that cannot be read, tensors that do not fit each other, a sum that is not the released one, or
        another dtype.
    """
    done = workdir / "sum.json"
    if done.exists():
        print(f"{workdir} is complete, nothing to do.")
        return
    check(config)
    folder = assets.resolve(config.difference)
    tokenizer = load_tokenizer(config.difference)
    for name in ("model", "checkpoints"):  # of a run that was killed, perhaps with another config
        remove(workdir / name)
    source = DifferenceSource(open_source(assets.resolve(config.base)), folder)
    total = source.check_sum()
    loaded = load(config.difference, 0.0, jnp.dtype("float32"), id_count(tokenizer), source=source)
    if source.head is None:
        save_pretrained(workdir / "model", loaded.model, loaded.top, tokenizer, config.dtype)
    else:
        _save_reward_model(workdir / "checkpoints", loaded, *source.head)
    write_text(done, json.dumps({"sum": total}) + "\n")
    kind = "policy" if source.head is None else "reward model"
    print(f"{workdir}: the {kind} of {config.difference}; its numbers sum to {total:.4f}, as released", flush=True)


def _save_reward_model(folder: Path, loaded: Pretrained, kernel: np.ndarray, bias: float) -> None:
    """A run's checkpoint of a reward model: a bias is a mean, with its sign turned, that scores are normalised by."""
    state = {"step": jnp.int32(0), "top": with_head(loaded.top, "reward", jnp.asarray(kernel))}
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(0, state, {**describe(loaded, "reward"), "mean": -bias, "std": 1.0})
