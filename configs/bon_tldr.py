"""Best of 16 from the SFT policy on TL;DR, as in the study (Kirk et al., 2024, App. E).

    python -m rlhf_jax.main --config=configs/bon_tldr.py:llama7b --workdir=runs/tldr/llama7b/best_of_n

The argument is a preset of `configs/rows.py`. It reads the row's stages prepare, sft and reward. 16 samples at
temperature 0.7 of each of the first 500 test posts and the first 500 news articles, of which the reward model chooses.

Expected by the study: it wins more often than PPO, in and out of distribution, at SFT's diversity. Not run.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import best_of_n, rows


def stage(folder: str, preset: str, seed) -> ConfigDict:
    """The stage of the row in `folder`."""
    config = rows.sampling(best_of_n.stage(folder, rows.model(folder, preset), seed), rows.TLDR, preset)
    return rows.sized(config, preset)


def get_config(preset: str = "llama7b") -> ConfigDict:
    """The stage's config, by the preset."""
    return stage(rows.folder("bon_tldr.py", rows.TLDR, preset), preset, 0)
