"""Samples of a study's PPO policy; `--config.sampling.policy=DIR` names another one.

    python -m rlhf_jax.main --config=configs/generate.py:runs/quickstart --workdir=runs/generate

The argument is the folder of the study whose prepare, ppo and reward stages it reads.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return common.generate(study, common.SMOLLM2, "ppo", 0)
