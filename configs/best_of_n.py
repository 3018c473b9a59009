"""The best of 16 samples of a study's SFT policy.

    python -m rlhf_jax.main --config=configs/best_of_n.py:runs/quickstart --workdir=runs/best_of_n

The argument is the folder of a study whose prepare, sft and reward stages are finished. N = 16 and temperature 0.7 are
the study's. SFT and PPO are sampled at 1, so part of best-of-n's lead is the temperature (docs/results.md).
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common
from rlhf_jax.configs.generate import sampling


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage(study, common.SMOLLM2, 0)


def stage(folder: str, model: str, seed) -> ConfigDict:
    """The stage of the study in `folder`."""
    config = ConfigDict({"stage": "best_of_n", "name": "bon", "sampling": sampling(folder, model, "sft", seed)})
    config.sampling.temperature = 0.7
    return config
