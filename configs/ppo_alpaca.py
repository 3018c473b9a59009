"""PPO on AlpacaFarm's instructions, by AlpacaFarm's recipe (Dubois et al., 2023).

    python -m rlhf_jax.main --config=configs/ppo_alpaca.py:llama7b --workdir=runs/alpaca/llama7b/ppo

The argument is a preset of `configs/rows.py`. From the row's sft stage against its reward model, on the prompts of

    python -m rlhf_jax.main --config=configs/prepare.py:alpaca_prompts --workdir=runs/alpaca/llama7b/prepare_prompts

The recipe: rollouts of 512 prompts with a response of at most 300 tokens each, 2 epochs of two updates of 256 at 1e-5,
a KL coefficient of 0.02 as for human preferences (0.0067 for simulated ones), the value function a network of its own
that starts as the reward model, discount and lambda 1, whitened rewards, clips of 0.2, value loss times 0.1. Ours: 80
rollouts, two passes over the 20,000 instructions. The estimator k1, a constant rate, no clipping of gradients.

Expected by the study: more wins than SFT in distribution and as many more on AlpacaEval. Better than best-of-16, and
much better than SFT on Sequential Instructions. Not run.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import rows


def stage(folder: str, preset: str, seed) -> ConfigDict:
    """The stage of the row in `folder`."""
    config = rows.ppo(folder, rows.ALPACA, preset, seed)
    config.update(
        {
            "data": f"{folder}/prepare_prompts/examples.jsonl",
            "prompts_per_rollout": 512,
            "num_rollouts": 80,
            "optimizer": {"learning_rate": 1e-5, "schedule": "constant"},
            "evaluate_every": 20,
            "checkpoint_every": 20,
        }
    )
    config.algorithm.update(
        {
            "kl_coef": 0.02,
            "whiten_rewards": True,
            "gae_lambda": 1.0,
            "value_model": "separate",
            "value_start": "reward",
            "num_ppo_epochs": 2,
            "num_mini_batches": 2,
            "vf_coef": 0.1,
        }
    )
    return rows.sized(config, preset)


def get_config(preset: str = "llama7b") -> ConfigDict:
    """The stage's config, by the preset."""
    return stage(rows.folder("ppo_alpaca.py", rows.ALPACA, preset), preset, 0)
