"""Supervised fine-tuning on AlpacaFarm's split for it, by AlpacaFarm's recipe (Dubois et al., 2023).

    python -m rlhf_jax.main --config=configs/sft_alpaca.py:llama7b --workdir=runs/alpaca/llama7b/sft

The argument is a preset of `configs/rows.py`. The row's data are in its folder:

    python -m rlhf_jax.main --config=configs/prepare.py:alpaca --workdir=runs/alpaca/llama7b/prepare

The study retrained none of this: it took AlpacaFarm's released LLaMA-7B models. The recipe is theirs: 3 epochs of the
10,000 (234 steps of 128), rate 2e-5. Ours: 80 % of the blocks frozen as in the study's own models (theirs trains all:
`--config.freeze=0`), a cosine schedule without warm-up, bfloat16 where the chips have it. Not run.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, rows, sft


def stage(folder: str, preset: str, seed) -> ConfigDict:
    """The stage of the row in `folder`."""
    config = rows.training(sft.stage(folder, rows.model(folder, preset), seed), rows.ALPACA, preset)
    config.update(
        {
            "evaluate_examples": 500,
            "evaluate_every": 78,
            "response_buckets": (64, 128, 320),  # 300 tokens and the EOS; longer ones are dropped
            "batch_size": 128,
            "steps": 234,
            "optimizer": common.optimizer(2e-5, "cosine"),
            "checkpoint_every": 78,
        }
    )
    return rows.sized(config, preset)


def get_config(preset: str = "llama7b") -> ConfigDict:
    """The stage's config, by the preset."""
    return stage(rows.folder("sft_alpaca.py", rows.ALPACA, preset), preset, 0)
