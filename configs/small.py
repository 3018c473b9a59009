"""The quickstart study on a random LLaMA of some 300,000 parameters, at a size where its curves mean something.

What the tests run the notebooks of `colabs/` on. Unlike in `tiny.py` the model is trained whole, so it leaves the
uniform distribution it starts from, and the annotator asks for what such a model can learn: few words. Its texts mean
nothing.

    python -m rlhf_jax.main --config=configs/small.py --workdir=runs/small
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common, tiny

TITLE = "The small study: a random model and a judge that wants few words"


def get_config() -> ConfigDict:
    """The pipeline's config."""
    config = tiny.get_config()
    config.title = TITLE
    stages = config.stages
    stages.prepare.packages += ("concurrent", "http", "importlib", "multiprocessing", "tkinter", "unittest", "xml")
    stages.prepare.splits = ConfigDict({"train": 160, "validation": 24, "id_test": 8, "ood_test": 8})
    stages.prepare.max_text = 300
    stages.initialize.layers = 2
    for stage in (stages.sft, stages.reward, stages.ppo):
        stage.update({"prompt_buckets": (128,), "checkpoint_every": 100})
    for stage in (stages.sft, stages.reward):
        stage.update({"response_buckets": (48,), "batch_size": 16, "microbatch": 16, "evaluate_every": 20})
    stages.sft.update({"freeze": 0.0, "steps": 100})
    stages.sft.optimizer.learning_rate = 3e-3
    stages.reward.update({"steps": 120, "evaluate_splits": ("validation",)})
    stages.reward.optimizer.learning_rate = 2e-3
    stages.ppo.update(
        {"prompts_per_rollout": 16, "num_generations": 4, "microbatch": 8, "num_rollouts": 20, "evaluate_every": 20}
    )
    stages.ppo.evaluate_prompts = ConfigDict({"id_test": 8, "ood_test": 8})
    stages.ppo.optimizer.learning_rate = 3e-4
    stages.ppo.algorithm.update({"max_new_tokens": 16, "kl_coef": 0.2})
    for stage in (stages.sample_pairs, stages.sample_sft, stages.sample_ppo, stages.best_of_n):
        stage.sampling.update({"max_new_tokens": 16, "max_prompt": 128, "batch_size": 8})
        stage.sampling.prompts = ConfigDict({"id_test": 8, "ood_test": 8})
    stages.sample_pairs.sampling.prompts = ConfigDict({"train": 160, "validation": 24})
    stages.sample_pairs.sampling.update({"n": 6, "batch_size": 16})
    stages.preferences.pairs_per_prompt = 8
    for stage in (stages.preferences, stages.judge):
        stage.gold = ConfigDict({**common.gold("lexical"), "free_words": 2, "length_penalty": 0.2})
    return config
