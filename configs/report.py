"""The report of a study, made again.

    python -m rlhf_jax.main --config=configs/report.py:runs/quickstart --workdir=runs/report

The argument is the folder of the study whose judgements, evaluation, samples and metrics it reads.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return common.report("RLHF on documentation", (study,))
