"""One of AlpacaFarm's released models, made of its weight difference and LLaMA-7B.

    python -m rlhf_jax.main --config=configs/recover_weight_diff.py:sft10k --workdir=runs/sft10k --config.base=FOLDER
    python -m rlhf_jax.main --config=configs/recover_weight_diff.py:reward-model-human --workdir=runs/reward-human ...
    python -m rlhf_jax.main --config=configs/best_of_n.py --workdir=runs/best_of_n --config.sampling.policy= \\
        --config.sampling.model=runs/sft10k/model --config.sampling.reward=runs/reward-human ...

The argument is the released name: sft10k, ppo-human, ppo-sim, reward-model-human, reward-model-sim and others. The base
is Meta's LLaMA-7B as transformers 4.29 or later converts it. Older conversions fail the check of the sum. It takes
memory for one model in float32, 27 GB. It has been run on small models of the same layout only.
"""

from ml_collections import ConfigDict


def get_config(name: str = "sft10k") -> ConfigDict:
    """The stage's config, by the released name."""
    return ConfigDict(
        {
            "stage": "recover_weight_diff",
            "base": "huggyllama/llama-7b",
            "difference": f"tatsu-lab/alpaca-farm-{name}-wdiff",
            "dtype": "float32",
        }
    )
