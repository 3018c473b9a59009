"""Pairs of a study's SFT samples, labelled by the gold scorer.

    python -m rlhf_jax.main --config=configs/preferences.py:runs/quickstart --workdir=runs/preferences

The argument is the folder of a study whose sample_pairs stage is finished. A tenth of the labels is flipped, since
people's labels are noisy too.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage(study, common.MINILM, 0)


def stage(folder: str, encoder: str, seed) -> ConfigDict:
    """The stage of the study in `folder`."""
    return ConfigDict(
        {
            "stage": "preferences",
            "samples": f"{folder}/sample_pairs/samples.jsonl",
            "gold": common.gold(encoder),
            "noise": 0.1,
            "pairs_per_prompt": 3,  # of the 6 that 4 samples make
            "seed": seed,
        }
    )
