"""Supervised fine-tuning of SmolLM2-135M on the corpus of a study.

    python -m rlhf_jax.main --config=configs/sft.py:runs/quickstart --workdir=runs/sft

The argument is the folder of the study whose prepare stage it reads.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return common.sft(study, common.SMOLLM2, 0)
