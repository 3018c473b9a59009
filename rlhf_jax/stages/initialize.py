"""Stage `initialize`: a small LLaMA with random weights and a tokenizer learned from data, in a Hugging Face folder.

It is what the tests and the tiny pipeline run on. Every later stage reads it as it would any local model.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlhf_jax.config import Count, Seed, content_of
from rlhf_jax.data.records import Example, read
from rlhf_jax.data.tokenizer import train_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.models.architecture import Architecture
from rlhf_jax.models.hf.pretrained import save_pretrained
from rlhf_jax.models.transformer import Model
from rlhf_jax.stages.inputs import Input


@dataclasses.dataclass(frozen=True)
class Config:
    """A random model.

    Attributes:
      stage: "initialize".
      data: `examples.jsonl`. The tokenizer is learned from its train split.
      vocabulary: V, of the tokenizer and the model.
      width: D.
      layers: L.
      heads: H.
      kv_heads: K.
      mlp_features: F.
      max_length: positions.
      seed: of the weights.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("model/config.json", "model")

    stage: str
    data: str = content_of("data")
    vocabulary: Count
    width: Count
    layers: Count
    heads: Count
    kv_heads: Count
    mlp_features: Count
    max_length: Count
    seed: Seed


def check(config: Config) -> None:
    """Raises UserError for heads that do not divide the width, or each other."""
    if config.heads % config.kv_heads or config.width % (2 * config.heads):
        raise UserError(
            f"config has width {config.width}, {config.heads} heads and {config.kv_heads} kv_heads, "
            "expected kv_heads to divide heads and twice the heads the width"
        )


def also_reads(config: Config) -> Iterator[Input]:
    """The splits of the data."""
    yield Input("data", "data", config.data, ("train",))


def run(config: Config, workdir: Path) -> None:
    """Writes the folder `workdir/model`. Returns at once when it is there.

    Raises:
      UserError: no data, or too little for the vocabulary. Heads that do not divide the width, or each other.
    """
    check(config)
    folder = workdir / "model"
    if (folder / "config.json").exists():  # it comes last
        return
    train = [example for example in read(config.data, Example) if example.split == "train"]
    tokenizer = train_tokenizer([f"{e.prompt} {e.response}" for e in train], config.vocabulary)
    architecture = Architecture(
        vocabulary=config.vocabulary,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.width // config.heads,
        mlp_features=config.mlp_features,
        epsilon=1e-5,
        max_length=config.max_length,
        tied=True,
    )
    model = Model(architecture, jnp.dtype("float32"))
    save_pretrained(folder, model, nn.meta.unbox(jax.jit(model.init)(jax.random.key(config.seed))), tokenizer)
