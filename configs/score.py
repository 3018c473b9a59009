"""A reward model as a proxy: it scores the PPO policy's samples of a study by their text.

    python -m rlhf_jax.main --config=configs/score.py:runs/quickstart --workdir=runs/score

The argument is the folder of a study whose reward and sample_ppo stages are finished. As it stands, the reward model is
the one that the policy was trained against. It agrees with itself up to rounding and re-tokenised texts.
`--config.reward` names another one, and `--config.model` its base model.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage(study, common.SMOLLM2, f"{study}/sample_ppo/samples.jsonl")


def stage(folder: str, model: str, samples: str) -> ConfigDict:
    """The stage of the study in `folder`, which also compares with the rewards that the samples came with."""
    return ConfigDict(
        {
            "stage": "score",
            "name": "proxy",
            "samples": samples,
            "model": model,
            "reward": f"{folder}/reward",
            "compare_with": {"reward": samples},
            "max_prompt": common.PROMPT_LENGTH,
            "truncation": "text",
            "separator": " ",  # as the reward model was trained
            "batch_size": 4,
            "dtype": "auto",
            "mesh": common.mesh(),
            "blocks": common.blocks(),
        }
    )
