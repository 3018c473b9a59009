"""The reward model on TL;DR's preferences with the study's settings (Kirk et al., 2024, App. E).

    python -m rlhf_jax.main --config=configs/reward_tldr.py:llama7b --workdir=runs/tldr/llama7b/reward

The argument is a preset of `configs/rows.py`. It starts from the row's sft stage. Its pairs come from

    python -m rlhf_jax.main --config=configs/prepare.py:tldr_preferences \\
        --workdir=runs/tldr/llama7b/prepare_preferences

One epoch of the 92,900 pairs (1,451 steps of 64), rate 3e-5, the best of those that the study tried by accuracy on
validation. The constants from 500 pairs. Out of distribution are the pairs of CNN/DailyMail. Ours: as in `sft_tldr`.

The study's LLaMA-7B: 75.8 % of the pairs right on TL;DR, 71.6 % on CNN/DailyMail. Not run.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, reward, rows


def stage(folder: str, preset: str, seed) -> ConfigDict:
    """The stage of the row in `folder`."""
    config = rows.training(reward.stage(folder, rows.model(folder, preset), seed), rows.TLDR, preset)
    config.update(
        {
            "data": f"{folder}/prepare_preferences/preferences.jsonl",
            "evaluate_every": 500,  # validation has 33,100 pairs
            "response_buckets": (64, 128, 256),
            "batch_size": 64,
            "steps": 1451,
            "optimizer": common.optimizer(3e-5, "linear"),
            "normalisation_pairs": 500,
            "checkpoint_every": 100,
        }
    )
    config.selection.update({"metric": "eval/validation/accuracy", "better": "higher"})
    return rows.sized(config, preset)


def get_config(preset: str = "llama7b") -> ConfigDict:
    """The stage's config, by the preset."""
    return stage(rows.folder("reward_tldr.py", rows.TLDR, preset), preset, 0)
