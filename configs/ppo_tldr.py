"""PPO on TL;DR with the study's settings (Kirk et al., 2024, App. E, F).

    python -m rlhf_jax.main --config=configs/ppo_tldr.py:llama7b --workdir=runs/tldr/llama7b/ppo

The argument is a preset of `configs/rows.py`. From the row's sft stage against its reward model: 750 rollouts of 256
prompts with a response of at most 48 tokens each, 4 epochs of one update at 1.5e-5, a fixed KL coefficient of 0.05,
advantages normalised. What the paper's table does not say is as in the released command: Adam without clipping, a rate
that goes down to 0, a random value head on the policy's top, lambda 0.95, clips of 0.2. Ours: the KL estimator k1 (the
code's k2 is biased, docs/method.md, R10), and as in `sft_tldr`. On eight v5e chips LLaMA-7B fits (docs/performance.md):

    python launch/aot_check.py --config=configs/ppo_tldr.py:llama7b --topology=v5e:2x4

Expected by the study: more reward and more wins than SFT on posts as on news (Figs. 2 to 4), at a far lower diversity
of the samples of one prompt (Fig. 5). Not run.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import rows


def stage(folder: str, preset: str, seed) -> ConfigDict:
    """The stage of the row in `folder`."""
    config = rows.ppo(folder, rows.TLDR, preset, seed)
    config.update(
        {
            "prompts_per_rollout": 256,
            "num_rollouts": 750,
            "optimizer": {"learning_rate": 1.5e-5, "schedule": "linear"},
            "evaluate_every": 50,
            "checkpoint_every": 50,
        }
    )
    config.algorithm.update(
        {
            "kl_coef": 0.05,
            "value_start": "random",
            "num_ppo_epochs": 4,
            "num_mini_batches": 1,
            "vf_coef": 0.2,
        }
    )
    return rows.sized(config, preset)


def get_config(preset: str = "llama7b") -> ConfigDict:
    """The stage's config, by the preset."""
    return stage(rows.folder("ppo_tldr.py", rows.TLDR, preset), preset, 0)
