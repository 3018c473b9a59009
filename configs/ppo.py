"""PPO from a study's SFT policy against its reward model.

    python -m rlhf_jax.main --config=configs/ppo.py:runs/quickstart --workdir=runs/ppo

The argument is the folder of a study whose prepare, sft and reward stages are finished. Every equation is in
docs/method.md. The values are the study's (Kirk et al., 2024, App. E and F) where a comment names no reason of our own:
beta 0.05, 4 epochs, clips of 0.2, lambda 0.95, whitened advantages, no reward whitening. `ppo_tldr.py` and
`ppo_alpaca.py` are the published recipes, `paper/ppo.py` repeats the released code.

Watch `kl_k1` and `score` together: a score that stands still while the KL grows is over-optimisation.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage(study, common.SMOLLM2, 0)


def stage(folder: str, model: str, seed) -> ConfigDict:
    """The stage of the study in `folder`."""
    prompts = FieldReference(16)
    return ConfigDict(
        {
            **common.training("ppo", model, f"{folder}/prepare/examples.jsonl", seed),
            "policy": f"{folder}/sft",  # also the reference
            "reward": f"{folder}/reward",
            # A rollout of 32 responses, so that the demo takes minutes on a laptop. The study has 256.
            "prompts_per_rollout": prompts,
            "num_generations": 2,
            "num_rollouts": 10,  # the study: 750
            "sampling_batch": prompts.identity(),  # all at once, as long as this key is not set
            "microbatch": 8,
            # The study: 1.5e-5 for LLaMA-7B, down to 0 over 3,000 updates. Not searched here.
            "optimizer": common.optimizer(1e-4, "constant"),
            "algorithm": {
                "temperature": 1.0,
                "max_new_tokens": 32,
                "kl_coef": 0.05,
                "kl_estimator": "k1",  # unbiased; the released code's k2 is not (R10)
                "kl_in": "reward",
                "kl_target": 0.0,  # fixed beta; `quickstart.py:long` adapts it
                "kl_horizon": 10_000,
                "refresh_reference_every": 0,
                "score_scale": 1.0,
                "score_clip": 0.0,
                "length_penalty": 0.0,
                "missing_eos_penalty": 1.0,  # in standard deviations of the score
                "whiten_rewards": False,
                "gamma": 1.0,
                "gae_lambda": 0.95,
                "value_model": "policy",  # a head on the policy's top, as in the study
                "value_start": "zero",  # the study: "random" (R18)
                "value_warmup_steps": 0,
                "num_ppo_epochs": 4,
                "num_mini_batches": 2,
                "cliprange": 0.2,
                "cliprange_value": 0.2,
                "vf_coef": 0.1,
                "entropy_coef": 0.0,
                "target_kl": 0.0,
                "paper": {
                    "whiten_microbatches": False,
                    "divide_by_cells": False,
                    "recompute_advantages": False,
                },
            },
            "evaluate_prompts": {"id_test": 16, "ood_test": 16},  # for reward against KL
            "evaluate_every": 5,
            "checkpoint_every": 5,
        }
    )
