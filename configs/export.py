"""A study's PPO policy as a folder that transformers loads. `--config.run=DIR` names another run, a reward model too.

    python -m rlhf_jax.main --config=configs/export.py:runs/quickstart --workdir=runs/export

The argument is the folder of a study whose ppo stage is finished.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return ConfigDict({"stage": "export", "model": common.SMOLLM2, "run": f"{study}/ppo", "dtype": "float32"})
