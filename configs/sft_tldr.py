"""Supervised fine-tuning on TL;DR with the study's settings (Kirk et al., 2024, App. E).

    python -m rlhf_jax.main --config=configs/sft_tldr.py:llama7b --workdir=runs/tldr/llama7b/sft

The argument is a preset of `configs/rows.py`. The row's data are in its folder:

    python -m rlhf_jax.main --config=configs/prepare.py:tldr --workdir=runs/tldr/llama7b/prepare

One epoch of the 116,722 posts (912 steps of 128), rate 3e-5, the best of those that the study tried by the loss on
validation, 80 % of the blocks frozen, prompts cut on the left. Ours: bfloat16 where the chips have it (the study's
float32: `configs/paper/sft.py`), the linear schedule, and the same rate for OPT, whose rates were not found. The study
gives no figure for this stage alone. Not run.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, rows, sft


def stage(folder: str, preset: str, seed) -> ConfigDict:
    """The stage of the row in `folder`."""
    config = rows.training(sft.stage(folder, rows.model(folder, preset), seed), rows.TLDR, preset)
    config.update(
        {
            "evaluate_examples": 500,
            "evaluate_samples": 100,
            "evaluate_every": 100,
            "response_buckets": (64, 128, 1024),
            "batch_size": 128,
            "steps": 912,
            "optimizer": common.optimizer(3e-5, "linear"),
            "checkpoint_every": 100,
        }
    )
    config.selection.metric = "eval/validation/loss"
    return rows.sized(config, preset)


def get_config(preset: str = "llama7b") -> ConfigDict:
    """The stage's config, by the preset."""
    return stage(rows.folder("sft_tldr.py", rows.TLDR, preset), preset, 0)
