"""The whole study on a random LLaMA of some 300,000 parameters: seconds instead of minutes, and no meaning.

What the tests run, and the way to try a change. The tokenizer is a BPE of 512 tokens learned from the corpus, which is
read from a few modules of the standard library. The gold scorer is lexical and Sentence-BERT diversity is left out.

    python -m rlhf_jax.main --config=configs/tiny.py --workdir=runs/tiny

54 s on 2 cores of an AMD EPYC, nothing compiled before (2026-11-22).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from rlhf_jax.configs import common, initialize, prepare, quickstart, report

MODEL = "{workdir}/initialize/model"
TITLE = "The tiny study: random weights, for tests"


def get_config() -> ConfigDict:
    """The pipeline's config."""
    seed = FieldReference(0)
    stages = quickstart.study(MODEL, encoder="", seed=seed)
    corpus = prepare.documentation(seed)
    corpus.packages = ("argparse", "asyncio", "collections", "email", "json", "logging", "pathlib", "typing", "urllib")
    corpus.splits = ConfigDict({"train": 64, "validation": 8, "id_test": 4, "ood_test": 4})
    corpus.max_text = 350
    for stage in (stages.sft, stages.reward, stages.ppo):
        stage.update({"dtype": "float32", "prompt_buckets": (256,), "microbatch": 4, "checkpoint_every": 2})
    for stage in (stages.sft, stages.reward):
        stage.update({"response_buckets": (64,), "batch_size": 8, "steps": 4, "evaluate_every": 4})
    stages.ppo.update({"prompts_per_rollout": 8, "num_rollouts": 3})
    stages.ppo.algorithm.update({"max_new_tokens": 12, "num_ppo_epochs": 2})
    stages.ppo.evaluate_prompts = ConfigDict({"id_test": 4, "ood_test": 4})
    stages.ppo.evaluate_every = 3
    sampled = (stages.sample_pairs, stages.sample_sft, stages.sample_ppo, stages.best_of_n)
    for stage in sampled:
        stage.sampling.update({"max_new_tokens": 12, "dtype": "float32", "batch_size": 4, "n": 4})
        stage.sampling.prompts = ConfigDict({"id_test": 4, "ood_test": 4})
    stages.sample_pairs.sampling.prompts = ConfigDict({"train": 16, "validation": 4, "ood_test": 4})
    last = report.stage(TITLE, ("{workdir}",))
    before, after = {"prepare": corpus, "initialize": initialize.stage("{workdir}", seed)}, {"report": last}
    everything = common.ordered(**before, **{name: stages[name] for name in stages}, **after)
    return common.ordered(stage="pipeline", title=TITLE, seed=seed, stages=everything)
