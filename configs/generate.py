"""Samples of a study's PPO policy. `--config.sampling.policy=DIR` names another one.

    python -m rlhf_jax.main --config=configs/generate.py:runs/quickstart --workdir=runs/generate

The argument is the folder of a study whose prepare, ppo and reward stages are finished. 16 samples per prompt at
temperature 1, from the whole vocabulary, are the study's setting for diversity.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage(study, common.SMOLLM2, "ppo", 0)


def stage(folder: str, model: str, policy: str, seed) -> ConfigDict:
    """Samples of one policy of the study in `folder`."""
    return ConfigDict({"stage": "generate", "name": policy, "sampling": sampling(folder, model, policy, seed)})


def sampling(folder: str, model: str, policy: str, seed) -> ConfigDict:
    """The section `sampling` of `generate` and `best_of_n`."""
    return ConfigDict(
        {
            "model": model,
            "policy": f"{folder}/{policy}",
            "reward": f"{folder}/reward",
            "data": f"{folder}/prepare/examples.jsonl",
            "prompts": {"id_test": 16, "ood_test": 16},  # the study: 500
            "n": 16,
            "temperature": 1.0,
            "top_k": 0,  # the study's library drew from the 50 likeliest (docs/method.md, M11)
            "max_new_tokens": 32,
            "max_prompt": common.PROMPT_LENGTH,
            "truncation": "text",
            "batch_size": 4,
            "dtype": "auto",
            "mesh": common.mesh(),
            "blocks": common.blocks(),
            "seed": seed,
        }
    )


def pairs(folder: str, model: str, seed) -> ConfigDict:
    """SFT samples that the annotator compares, before there is a reward model."""
    config = stage(folder, model, "sft", seed)
    config.sampling.update({"reward": "", "n": 4, "batch_size": 16})
    config.sampling.prompts = ConfigDict({"train": 96, "validation": 16, "ood_test": 16})
    return config
