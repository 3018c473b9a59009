"""Pairs of a study's SFT samples, labelled by the gold scorer.

    python -m rlhf_jax.main --config=configs/preferences.py:runs/quickstart --workdir=runs/preferences

The argument is the folder of the study whose sample_pairs stage it reads.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return common.preferences(study, common.MINILM, 0)
