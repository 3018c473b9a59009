"""The reward model on AlpacaFarm's human preferences, by AlpacaFarm's recipe (Dubois et al., 2023).

    python -m rlhf_jax.main --config=configs/reward_alpaca.py:llama7b --workdir=runs/alpaca/llama7b/reward

The argument is a preset of `configs/rows.py`. It starts from the row's sft stage. Its pairs come from

    python -m rlhf_jax.main --config=configs/prepare.py:alpaca_preferences \\
        --workdir=runs/alpaca/llama7b/prepare_preferences

The recipe: one epoch of the 9,190 pairs that are not held out (574 steps of 16), rate 3e-6. Which of the released
reward models the study used, of human or of simulated preferences, was not found. Ours: as in `sft_alpaca`. Not run.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, reward, rows


def stage(folder: str, preset: str, seed) -> ConfigDict:
    """The stage of the row in `folder`."""
    config = rows.training(reward.stage(folder, rows.model(folder, preset), seed), rows.ALPACA, preset)
    config.update(
        {
            "data": f"{folder}/prepare_preferences/preferences.jsonl",
            "evaluate_splits": ("validation",),
            "evaluate_every": 100,
            "response_buckets": (64, 128, 320),
            "steps": 574,
            "optimizer": common.optimizer(3e-6, "cosine"),
            "normalisation_pairs": 500,
            "checkpoint_every": 100,
        }
    )
    return rows.sized(config, preset)


def get_config(preset: str = "llama7b") -> ConfigDict:
    """The stage's config, by the preset."""
    return stage(rows.folder("reward_alpaca.py", rows.ALPACA, preset), preset, 0)
