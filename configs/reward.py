"""The reward model of a study.

    python -m rlhf_jax.main --config=configs/reward.py:runs/quickstart --workdir=runs/reward

The argument is the folder of the study whose sft and preferences stages it reads.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return common.reward(study, common.SMOLLM2, 0)
