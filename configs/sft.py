"""Supervised fine-tuning of SmolLM2-135M on a study's corpus.

    python -m rlhf_jax.main --config=configs/sft.py:runs/quickstart --workdir=runs/sft

The argument is the folder of a study whose prepare stage is finished. The values are the study's (Kirk et al., 2024,
App. E) where a comment names no reason of our own. `sft_tldr.py` and `sft_alpaca.py` are the published recipes.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common


def get_config(study: str = "runs/quickstart") -> ConfigDict:
    """The stage's config, by the study's folder."""
    return stage(study, common.SMOLLM2, 0)


def stage(folder: str, model: str, seed) -> ConfigDict:
    """The stage of the study in `folder`."""
    return ConfigDict(
        {
            **common.training("sft", model, f"{folder}/prepare/examples.jsonl", seed),
            "freeze": 0.8,  # the study freezes 80 % of the blocks, the embeddings and the head
            "steps": 30,  # the study: one epoch, 912 steps of 128; the demo has minutes
            "batch_size": 16,
            "microbatch": 16,
            # Ten times the study's 3e-5, for a network of a fiftieth of the size. Not searched.
            "optimizer": common.optimizer(3e-4, "cosine"),
            "response_buckets": (32,),  # 95 % of summary lines have at most 16 words
            "long_responses": "drop",
            "mean_over": "batch",  # "microbatch" repeats the study's code (docs/method.md, S2)
            "evaluate_splits": ("validation", "ood_test"),
            "evaluate_examples": 48,
            "evaluate_samples": 0,  # a sampler takes 12 s to compile
            "evaluate_every": 15,
            "checkpoint_every": 10,
            "selection": common.latest(),
        }
    )
