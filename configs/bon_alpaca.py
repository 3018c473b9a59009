"""Best of 16 from the SFT policy on instructions (Kirk et al., 2024, App. E).

    python -m rlhf_jax.main --config=configs/bon_alpaca.py:llama7b --workdir=runs/alpaca/llama7b/best_of_n

The argument is a preset of `configs/rows.py`. It reads the row's stages prepare, sft and reward. 16 samples at
temperature 0.7 of every instruction of the test in distribution, of AlpacaEval and of Sequential Instructions.

Expected by the study: its wins against SFT grow by some 3.5 points from the test in distribution to AlpacaEval, as
PPO's do. Not run.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import best_of_n, rows


def stage(folder: str, preset: str, seed) -> ConfigDict:
    """The stage of the row in `folder`."""
    config = rows.sampling(best_of_n.stage(folder, rows.model(folder, preset), seed), rows.ALPACA, preset)
    return rows.sized(config, preset)


def get_config(preset: str = "llama7b") -> ConfigDict:
    """The stage's config, by the preset."""
    return stage(rows.folder("bon_alpaca.py", rows.ALPACA, preset), preset, 0)
