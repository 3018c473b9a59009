"""What the stages of a row share: a row is one task of the study with one base model, all of it in one folder.

`configs/study.py:tldr,llama7b` runs a row. Its stages alone are `configs/sft_tldr.py:llama7b` and the like, which read
`runs/tldr/llama7b`. Of the other task they end in `_alpaca`.
"""

from ml_collections import ConfigDict

from rlhf_jax.configs import common
from rlhf_jax.configs import generate as generate_config
from rlhf_jax.configs import ppo as ppo_config

TINY = "tiny"

# Base models by a short name, and how many chips share one copy: our choice for v5e and bfloat16, of which only that of
# llama7b has been compiled.
PRESETS = {
    "llama7b": ("huggyllama/llama-7b", 8),  # the study's main model
    "llama3_8b": ("meta-llama/Meta-Llama-3-8B", 8),  # not in the study
    "opt125m": ("facebook/opt-125m", 1),  # App. J, as are the next four
    "opt350m": ("facebook/opt-350m", 1),
    "opt1_3b": ("facebook/opt-1.3b", 1),
    "opt2_7b": ("facebook/opt-2.7b", 8),
    "opt6_7b": ("facebook/opt-6.7b", 8),
    "smollm2_135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", 1),  # not in the study
    TINY: ("initialize/model", 1),  # random weights, which the row itself makes; sizes for a laptop
}

# Of a task: the folder of its rows. Lengths in tokens. How many prompts of each test split are answered, the first ones
# (0 is all). And how often each by SFT and PPO. TL;DR: 48 new tokens, prompts of at most 1,024, diversity of 16 samples
# of 500 prompts (App. E). Instructions: AlpacaFarm's lengths. One sample, for the study gave up their diversity.
TLDR = ConfigDict(
    {
        "name": "tldr",
        "prompt_buckets": (256, 512, 1024),
        "new_tokens": 48,
        "prompts": {"id_test": 500, "ood_test": 500},
        "samples": 16,
    }
)
ALPACA = ConfigDict(
    {
        "name": "alpaca",
        "prompt_buckets": (192,),
        "new_tokens": 300,
        "prompts": {"id_test": 0, "ood_test": 0, "sequential_test": 0},
        "samples": 1,
    }
)


def folder(file: str, task: ConfigDict, preset: str) -> str:
    """Where a row's stages are when they are run alone. An unknown preset is a ValueError that names the known ones."""
    common.check_argument(file, preset, *PRESETS)
    return f"runs/{task.name}/{preset}"


def judged(file: str, task: ConfigDict, argument: str) -> tuple[str, str, str]:
    """A row's folder, its preset and how it is judged, of "PRESET" or "PRESET,offline". Refuses as `folder`."""
    preset, _, how = argument.partition(",")
    where = folder(file, task, preset)
    common.check_argument(f"{file}:PRESET", how, "", "offline")
    return where, preset, how


def model(where: str, preset: str) -> str:
    """The base model of the row in the folder `where`."""
    name, _ = PRESETS[preset]
    return f"{where}/{name}" if preset == TINY else name


def mesh(preset: str) -> ConfigDict:
    """As many chips as a copy of the model needs, and as many copies as there are chips for."""
    _, tensor = PRESETS[preset]
    return common.mesh(data=-1, tensor=tensor)


def blocks(preset: str) -> ConfigDict:
    """Of a model that chips share: scanned, which compiles in a fraction of the time, and of each block the projections
    saved, without which the reward model does not fit (docs/performance.md).
    """
    _, tensor = PRESETS[preset]
    large = ConfigDict({"scan": True, "remat": "projections", "quantize_trunk": "none"})
    return large if tensor > 1 else common.blocks()


def training(config: ConfigDict, task: ConfigDict, preset: str) -> ConfigDict:
    """A stage that trains, with its row's lengths and mesh."""
    lengths = {"prompt_buckets": task.prompt_buckets, "truncation": "left"}
    config.update({"mesh": mesh(preset), "blocks": blocks(preset), **lengths})
    return config


def ppo(where: str, task: ConfigDict, preset: str, seed) -> ConfigDict:
    """PPO as on both tasks: one response a prompt, gradients that are not clipped, no penalty for a missing EOS."""
    config = training(ppo_config.stage(where, model(where, preset), seed), task, preset)
    config.update(
        {
            "sampling_batch": 64,  # on LLaMA-7B a token's keys and values take 0.5 MB in bfloat16
            "num_generations": 1,
            "evaluate_prompts": ConfigDict({"validation": 256}),
        }
    )
    config.optimizer.clip_norm = 0.0
    config.algorithm.update({"max_new_tokens": task.new_tokens, "missing_eos_penalty": 0.0})
    return config


def sampling(config: ConfigDict, task: ConfigDict, preset: str) -> ConfigDict:
    """A stage that samples the test prompts, likewise."""
    config.sampling.update(
        {
            "mesh": mesh(preset),
            "blocks": blocks(preset),
            "max_prompt": max(task.prompt_buckets),
            "truncation": "left",
            "max_new_tokens": task.new_tokens,
            "batch_size": 8,  # one a chip where a chip holds the model
        }
    )
    config.sampling.prompts = task.prompts
    return config


def generate(where: str, task: ConfigDict, preset: str, policy: str, seed) -> ConfigDict:
    """The samples of one policy of the row in the folder `where`."""
    config = sampling(generate_config.stage(where, model(where, preset), policy, seed), task, preset)
    config.sampling.n = task.samples
    return sized(config, preset)


def sized(config: ConfigDict, preset: str) -> ConfigDict:
    """A stage as it is, but for the preset `tiny` at the size of a laptop, where its numbers mean nothing."""
    if preset != TINY:
        return config
    if "optimizer" in config:
        config.update({"dtype": "float32", "mesh": common.mesh(), "prompt_buckets": (256,), "microbatch": 4})
        config.update({"evaluate_every": 4, "checkpoint_every": 2})
        config["num_rollouts" if config.stage == "ppo" else "steps"] = 4
    if "batch_size" in config:
        config.update({"response_buckets": (64,), "batch_size": 8})
    if config.stage == "sft":
        config.update({"evaluate_examples": 8, "evaluate_samples": 0})
    if config.stage == "reward":
        config.normalisation_pairs = 32
    if config.stage == "ppo":
        config.update({"prompts_per_rollout": 8, "sampling_batch": 8})
        config.evaluate_prompts = ConfigDict({"validation": 4})
        config.algorithm.max_new_tokens = 12
    if "sampling" in config:
        few = {"max_new_tokens": 12, "max_prompt": 256, "n": min(config.sampling.n, 4), "batch_size": 4}
        config.sampling.update({"dtype": "float32", "mesh": common.mesh(), **few})
        config.sampling.prompts = ConfigDict({split: 4 for split in config.sampling.prompts})
    if config.stage == "prepare":
        config.splits = common.ordered(**{split: 64 if split == "train" else 8 for split in config.splits})
    if config.stage == "evaluate":
        config.encoder = ""
    return config
