"""PPO of LLaMA-7B on TL;DR with the study's settings (Kirk et al., 2024, App. E).

    python -m rlhf_jax.main --config=configs/paper/ppo.py --workdir=runs/paper/ppo             # the paper's table
    python -m rlhf_jax.main --config=configs/paper/ppo.py:released --workdir=runs/paper/ppo    # the released command

Both: from the SFT run in runs/paper/sft against the reward model in runs/paper/reward, rollouts of 256 prompts with a
response of at most 48 tokens each, 4 epochs of one update, Adam without clipping, the rate going down to 0, a random
value head on the policy's top. The table: 750 rollouts at 1.5e-5, a KL coefficient of 0.05. What it does not say is as
in the released command, but the KL estimator, which is k1. The released command: 500 rollouts at 1.5e-6, a coefficient
of 5.0 on k2, single prompts as microbatches, and its code's quirks (docs/method.md, R3 to R21). It has not been run at
this size. On eight v5e chips it fits in bfloat16 (docs/performance.md):

    python launch/aot_check.py --config=configs/paper/ppo.py --topology=v5e:2x4 --config.dtype=bfloat16
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, ppo_tldr
from rlhf_jax.configs.paper.common import ROW, in_float32


def get_config(variant: str = "table") -> ConfigDict:
    """The config: "table" for the paper's settings, "released" for those of the released command."""
    common.check_argument("paper/ppo.py", variant, "table", "released")
    config = in_float32(ppo_tldr.stage(*ROW))
    if variant == "released":
        config.update({"num_rollouts": 500, "microbatch": 1})
        config.optimizer.learning_rate = 1.5e-6
        config.algorithm.update({"kl_coef": 5.0, "kl_estimator": "k2"})
        config.algorithm.paper.update(
            {"whiten_microbatches": True, "divide_by_cells": True, "recompute_advantages": True}
        )
    return config
