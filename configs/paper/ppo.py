"""PPO of LLaMA-7B on TL;DR with the study's settings (Kirk et al., 2024, App. E).

    python -m rlhf_jax.main --config=configs/paper/ppo.py --workdir=runs/paper/ppo             # the paper's table
    python -m rlhf_jax.main --config=configs/paper/ppo.py:released --workdir=runs/paper/ppo    # the released command

Both: from the SFT run in runs/paper/sft against the reward model in runs/paper/reward, rollouts of 256 prompts with a
response of at most 48 tokens each, 4 epochs of one update, Adam without clipping, the rate going down to 0, a random
value head on the policy's top. The table: 750 rollouts at 1.5e-5, a KL coefficient of 0.05; what it does not say is as
in the released command, but the KL estimator, which is k1. The released command: 500 rollouts at 1.5e-6, a coefficient
of 5.0 on k2, single prompts as microbatches, and its code's quirks (docs/method.md, R3 to R21). It has not been run at
this size; on eight v5e chips it fits in bfloat16 (docs/performance.md):

    python launch/aot_check.py --config=configs/paper/ppo.py --topology=v5e:2x4 --config.dtype=bfloat16
"""

from ml_collections import ConfigDict

from configs import common
from configs.paper.common import EXAMPLES, LLAMA_7B, TRAINING


def get_config(variant: str = "table") -> ConfigDict:
    """The config: "table" for the paper's settings, "released" for those of the released command."""
    common.check_argument("paper/ppo.py", variant, "table", "released")
    config = common.ppo("runs/paper", LLAMA_7B, seed=0)
    config.update(
        {
            **TRAINING,
            "data": EXAMPLES,
            "prompts": 256,
            "sampling_batch": 64,  # on LLaMA-7B a token's keys and values take 0.5 MB in bfloat16: 4.3 GB on 8 chips
            "samples": 1,
            "steps": 750,
            "optimizer": common.optimizer(1.5e-5, "linear"),
            "evaluate_prompts": ConfigDict({"validation": 256}),
            "evaluate_every": 50,
            "checkpoint_every": 50,
        }
    )
    config.algorithm.update(
        {
            "max_new_tokens": 48,
            "kl_coefficient": 0.05,
            "missing_eos_penalty": 0.0,
            "value_start": "random",
            "epochs": 4,
            "minibatches": 1,
            "value_coefficient": 0.2,
        }
    )
    config.optimizer.clip_norm = 0.0
    if variant == "released":
        config.update({"steps": 500, "microbatch": 1})
        config.optimizer.learning_rate = 1.5e-6
        config.algorithm.update({"kl_coefficient": 5.0, "kl_estimator": "k2"})
        config.algorithm.paper.update(
            {"whiten_microbatches": True, "divide_by_cells": True, "recompute_advantages": True}
        )
    return config
