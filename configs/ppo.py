"""PPO from a study's SFT policy against its reward model.

    python -m rlhf_jax.main --config=configs/ppo.py:runs/quickstart --workdir=runs/ppo

The argument is the folder of the study whose prepare, sft and reward stages it reads.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return common.ppo(study, common.SMOLLM2, 0)
