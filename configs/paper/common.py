"""What the study's stages on TL;DR share as it ran them: LLaMA-7B in float32, in one folder. Its data come from

    python -m rlhf_jax.main --config=configs/prepare.py:tldr --workdir=runs/paper/prepare
    python -m rlhf_jax.main --config=configs/prepare.py:tldr_preferences --workdir=runs/paper/prepare_preferences

All other settings are those of `configs/sft_tldr.py` and its like.
"""

from ml_collections import ConfigDict

ROW = ("runs/paper", "llama7b", 0)  # folder, preset and seed


def in_float32(config: ConfigDict) -> ConfigDict:
    """A stage in the study's precision."""
    (config.sampling if "sampling" in config else config).dtype = "float32"
    return config
