"""The best of 16 samples of a study's SFT policy.

    python -m rlhf_jax.main --config=configs/best_of_n.py:runs/quickstart --workdir=runs/best_of_n

The argument is the folder of the study whose prepare, sft and reward stages it reads.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return common.best_of_n(study, common.SMOLLM2, 0)
