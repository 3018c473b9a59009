"""The reward model of a study.

    python -m rlhf_jax.main --config=configs/reward.py:runs/quickstart --workdir=runs/reward

The argument is the folder of a study whose sft and preferences stages are finished. The reward model starts from the
SFT policy's top, with the loss of Bradley and Terry and no extra terms, as in the study. With the demo's 288 pairs, a
tenth of them mislabelled, it stays near 60 % on held-out pairs (docs/results.md).
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage(study, common.SMOLLM2, 0)


def stage(folder: str, model: str, seed) -> ConfigDict:
    """The stage of the study in `folder`."""
    return ConfigDict(
        {
            **common.training("reward", model, f"{folder}/preferences/preferences.jsonl", seed),
            "policy": f"{folder}/sft",
            "steps": 18,  # one epoch of the demo's 288 pairs, as in the study
            "batch_size": 16,
            "microbatch": 16,
            "optimizer": common.optimizer(3e-4, "cosine"),  # as for SFT. Not searched
            "objective": {"margin": 0.0, "center_rewards_coefficient": 0.0},
            "normalisation_pairs": 64,  # the study: 500 rows, from which scores get mean 0 and standard deviation 1
            "response_buckets": (40,),  # a sample that was cut at 32 tokens gains an EOS
            "separator": " ",  # the study's data have two spaces (docs/method.md, M3)
            "long_responses": "drop",
            "evaluate_splits": ("validation", "ood_test"),
            "evaluate_every": 6,
            "checkpoint_every": 6,
            "selection": common.latest(),
        }
    )
