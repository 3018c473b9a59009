"""Settings that all training stages share."""

import dataclasses
from typing import Literal

from rlhf_jax.config import Count, Lengths, Seconds, Seed, content_of, may_change
from rlhf_jax.data.loading import Loading
from rlhf_jax.models.scan import Blocks
from rlhf_jax.parallel import sharding
from rlhf_jax.training import optimizer
from rlhf_jax.training.loggers import Logging


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The shared part of the configs of `sft`, `reward` and `ppo`.

    Attributes:
      stage: the stage's name.
      model: base model, as `assets.resolve` takes it.
      data: the stage's JSONL file, or a folder prepared with tokens.
      loading: reading of the training data.
      dtype: of computation: "auto", "bfloat16" or "float32".
      mesh: devices that shard the batch, the parameters and the heads.
      blocks: how the network's blocks are stored, run and differentiated.
      prompt_buckets: ascending lengths (tokens) that prompts are padded to. A longer prompt is shortened to the last.
      truncation: the part that a too long prompt loses: "text", the end of its text field, or "left", its start but the
        BOS (docs/method.md, S1).
      microbatch: prompts of one forward and backward pass. Divides the batch.
      optimizer: AdamW and its schedule.
      evaluate_every: steps between evaluations. SFT and reward also evaluate after the last step.
      checkpoint_every: steps between checkpoints.
      stop_grace: seconds that a step may go on after SIGTERM. Then the last complete checkpoint stands. 0 is no limit.
      logging: profiles and services beyond the run's own files (docs/logging.md).
      seed: of the data order and of everything random.
    """

    stage: str
    model: str = content_of("model")
    data: str = content_of("data")
    loading: Loading
    dtype: Literal["auto", "bfloat16", "float32"]
    mesh: sharding.Mesh = may_change()
    blocks: Blocks
    prompt_buckets: Lengths
    truncation: Literal["text", "left"]
    microbatch: Count = may_change()
    optimizer: optimizer.Config
    evaluate_every: Count = may_change()
    checkpoint_every: Count = may_change()
    stop_grace: Seconds = may_change()
    logging: Logging = may_change()
    seed: Seed
