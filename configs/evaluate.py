"""Diversity, ROUGE and length of a study's three policies.

    python -m rlhf_jax.main --config=configs/evaluate.py:runs/quickstart --workdir=runs/evaluate

The argument is the folder of a study whose samples are there. NLI diversity is off: roberta-large-mnli is not offline.
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
            "stage": "evaluate",
            "samples": common.samples(folder),
            "encoder": encoder,
            "nli": {"model": "", "samples": 5, "pairs": 0},
            "mode": "default",  # "paper" counts words as the released code does (docs/evaluation.md)
            "pools": {},
            "seed": seed,
        }
    )
