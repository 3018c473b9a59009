"""Gold win rates of a study's three policies, against the reference and against SFT.

    python -m rlhf_jax.main --config=configs/judge.py:runs/quickstart --workdir=runs/judge

The argument is the folder of a study whose samples are there.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage(study, common.MINILM)


def stage(folder: str, encoder: str) -> ConfigDict:
    """The stage of the study in `folder`."""
    return ConfigDict(
        {"stage": "judge", "samples": common.samples(folder), "baseline": "sft", "gold": common.gold(encoder)}
    )
