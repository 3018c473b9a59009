"""The corpus alone: docstrings in distribution, READMEs out of distribution.

python -m rlhf_jax.main --config=configs/prepare.py --workdir=runs/prepare
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The stage's config."""
    return common.prepare(0)
