"""Every config in configs/ is complete and fits its stage, so that any of its keys can be set on the command line."""

import copy
import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

import pytest
from pydantic import TypeAdapter, ValidationError

from launch.sweep import Sweep
from rlhf_jax.config import to_dict
from rlhf_jax.configs import rows, study
from rlhf_jax.errors import UserError
from rlhf_jax.stages.runner import STAGES, check, resolve

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.rglob("*.py")
    if path.stem not in ("__init__", "common", "rows") and path.parent.name != "sweeps"  # tests/launch has those
)
EXPERIMENTS = [
    f"{stage}_{task}" for task in ("tldr", "alpaca") for stage in ("sft", "reward", "ppo", "bon", "evaluate")
]
VARIANTS = [(name, None) for name in FILES] + [
    *((name, preset) for name in (*EXPERIMENTS, "kl_sweep") for preset in rows.PRESETS),
    *(("study", f"{task},{preset}") for task in ("tldr", "alpaca") for preset in rows.PRESETS),
    *((name, "tiny,offline") for name in ("evaluate_tldr", "evaluate_alpaca", "kl_sweep")),
    *(("study", f"tldr,opt125m,{shift},offline") for shift in study.SHIFTS),
    ("study", "alpaca,smollm2_135m,offline"),
    ("quickstart", "long"),
    ("annotation_page", "runs/quickstart,judge"),
    ("generate_tasks", "alpaca_farm_id_test"),
    ("prepare", "tldr"),
    ("prepare", "tldr,length"),
    ("prepare", "tldr_preferences"),
    ("prepare", "tldr_preferences,random_10"),
    ("prepare", "cnn_dailymail"),
    ("prepare", "alpaca"),
    ("prepare", "alpaca_prompts"),
    ("prepare", "alpaca_preferences"),
    ("prepare", "hh_rlhf"),
    ("paper/sft", "released"),
    ("paper/reward", "released"),
    ("paper/ppo", "released"),
    ("paper/best_of_n", "released"),
]


def load(name: str, argument: str | None):
    spec = importlib.util.spec_from_file_location(f"config_{name.replace('/', '_')}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, to_dict(module.get_config(argument) if argument else module.get_config())


def stages_of(config: dict, where: str = "config"):
    """The config and, of a pipeline, all that it runs."""
    yield where, config
    if config["stage"] == "pipeline":
        for name, stage in config["stages"].items():
            yield from stages_of(stage, f"{where}.stages.{name}")


@pytest.mark.parametrize(("name", "argument"), VARIANTS)
def test_config_fits_its_stages(name, argument):
    module, config = load(name, argument)
    assert f"--config=configs/{name}.py" in module.__doc__, "the lab note gives the command"
    for where, stage in stages_of(config):
        resolve(stage, where)
    check(config, Path("study"))


@pytest.mark.parametrize("name", ["quickstart", "prepare", "generate_tasks", *EXPERIMENTS, "kl_sweep", "study"])
def test_an_unknown_argument_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name}.py: 'short' is unknown"):
        load(name, "short")


@pytest.mark.parametrize(("name", "argument"), [("study", "tldr,tiny"), ("study", "alpaca,tiny"), ("kl_sweep", "tiny")])
def test_a_misspelt_key_names_the_nearest(name, argument):
    """At any depth of any stage, the last letter typed twice."""
    _, config = load(name, argument)
    for stage in config["stages"].values():
        for *above, key in paths(stage):
            wrong = copy.deepcopy(stage)
            section = functools.reduce(dict.__getitem__, above, wrong)
            typed = key + key[-1]
            section[typed] = section.pop(key)
            with pytest.raises(UserError, match=f"has no key '{typed}'; did you mean '{key}'"):
                resolve(wrong)


SECTIONS = ["algorithm", "paper", "sampling", "optimizer", "selection", "mesh", "rules", "llm", "endpoint", "gold"]


def paths(config: dict, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of a stage's config at every depth, but for those of free choice, such as splits and models."""
    for key, value in config.items():
        if key != "stage":
            yield (*above, key)
        if key in SECTIONS:
            yield from paths(value, (*above, key))


@pytest.mark.parametrize(("name", "argument"), [("tiny", None), ("study", "tldr,tiny"), ("study", "alpaca,tiny")])
def test_the_seed_reaches_every_stage(name, argument):
    module, _ = load(name, argument)
    config = module.get_config(argument) if argument else module.get_config()
    config.seed = 7
    seeds = {value for stage in to_dict(config)["stages"].values() for value in find(stage, "seed")}
    assert seeds == {7}


def find(config: dict, key: str):
    for name, value in config.items():
        if isinstance(value, dict):
            yield from find(value, key)
        elif name == key:
            yield value


def numbers(hint: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The type of every number inside a type, by the path of fields that leads to it. `Any` counts as a number."""
    base = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if base in (int, float, Any):
        yield where, hint
    elif dataclasses.is_dataclass(base):
        for name, field in get_type_hints(base, include_extras=True).items():
            if get_origin(field) is not ClassVar:
                yield from numbers(field, f"{where}.{name}")
    else:
        for inner in get_args(base):
            yield from numbers(inner, where)


CLASSES = {stage: importlib.import_module(f"rlhf_jax.stages.{stage}").Config for stage in STAGES} | {"sweep": Sweep}
NUMBERS = {path: hint for name, config in CLASSES.items() for path, hint in numbers(config, name)}
# Checked elsewhere: by the server that they are for, as the config of a stage of their own, and by the runs they make.
FREE = (".endpoint.parameters", "pipeline.stages", "sweep.axes.values")


def test_every_number_of_every_stage_declares_its_domain():
    """No domain is the whole line: all refuse what is not a number, and what is too large or too small to compute."""
    assert len(NUMBERS) > 150 and NUMBERS["sft.optimizer.clip_norm"]
    free = []
    for path, hint in NUMBERS.items():
        if hint is Any:
            free.append(path)
            continue
        signed = path.startswith("sweep.axes.") or path.endswith("gold.length_penalty")
        texts = ("NaN", "Infinity", "-Infinity", f"{10**40}", f"-{10**40}", "1e40", "-1e40", "true", "-2")
        for text in texts[: -1 if signed else None]:
            with pytest.raises(ValidationError):
                pytest.fail(f"{path} may be {TypeAdapter(hint).validate_json(text, strict=True)}")
    assert all(path.endswith(FREE) for path in free)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sft", {"optimizer.clip_norm": -1.0}, "config.optimizer.clip_norm is -1.0 .*greater than or equal to 0"),
        ("sft", {"optimizer.learning_rate": -1e-3}, "config.optimizer.learning_rate is -0.001 "),
        ("sft", {"optimizer.beta2": 1.0}, "config.optimizer.beta2 is 1.0 .*less than or equal to 0.99999"),
        ("sft", {"optimizer.epsilon": 1e-60}, "config.optimizer.epsilon is 1e-60 .*expected 0 or a size from 1e-30"),
        ("sft", {"seed": -1}, "config.seed is -1 "),
        ("sft", {"seed": 2**32}, "config.seed is 4294967296 "),
        (
            "sft",
            {"prompt_buckets": ()},
            r"config.prompt_buckets is \[\] .*one or more lengths in ascending order",
        ),
        ("reward", {"response_buckets": (64, 32)}, r"config.response_buckets is \[64, 32\] .*ascending order"),
        ("reward", {"prompt_buckets": (64, 64)}, r"config.prompt_buckets is \[64, 64\] .*ascending order"),
        ("reward", {"prompt_buckets": (0, 64)}, r"config.prompt_buckets\[0\] is 0 "),
        ("ppo", {"algorithm.missing_eos_penalty": -1.0}, "config.algorithm.missing_eos_penalty is -1.0 "),
        ("ppo", {"algorithm.temperature": float("nan")}, "config.algorithm.temperature is nan "),
        ("ppo", {"mesh.data": -2}, "config.mesh.data is -2 "),
        ("generate", {"sampling.prompts": {}}, r"config.sampling.prompts is {} \(dict\), expected one or more"),
        ("generate", {"sampling.prompts": {"id_test": -1}}, "config.sampling.prompts.id_test is -1 "),
        ("preferences", {"gold.copy_penalty": -0.1}, "config.gold.copy_penalty is -0.1 "),
        ("preferences", {"noise": 1.01}, "config.noise is 1.01 "),
        ("judge_llm", {"llm.endpoint.timeout": 0.0}, "config.llm.endpoint.timeout is 0.0 "),
        ("judge_llm", {"llm.endpoint.parameters": {"temperature": float("inf")}}, "parameters is .*finite numbers"),
        ("report", {"runs": ()}, r"config.runs is \[\] .*expected one or more"),
    ],
)
def test_a_number_outside_its_domain_is_named(name, changes, message):
    _, config = load(name, None)
    for path, value in changes.items():
        *above, key = path.split(".")
        functools.reduce(dict.__getitem__, above, config)[key] = value
    with pytest.raises(UserError, match=message):
        resolve(config)


@pytest.mark.parametrize(
    ("name", "changes", "warnings"),
    [
        ("sft", {"optimizer.warmup_steps": 10**6}, ["config.optimizer.warmup_steps"]),
        ("reward", {"optimizer.warmup_steps": 10**6}, ["config.optimizer.warmup_steps"]),
        ("ppo", {"optimizer.warmup_steps": 10**6}, ["config.optimizer.warmup_steps"]),
        ("ppo", {"algorithm.value_warmup_steps": 10**6}, ["config.algorithm.value_warmup_steps"]),
        ("ppo", {}, []),
    ],
)
def test_a_run_that_never_leaves_its_warmup_says_so(name, changes, warnings, monkeypatch, tmp_path, capsys):
    _, config = load(name, None)
    for path, value in changes.items():
        section, key = path.split(".")
        config[section][key] = value
    module, parsed = resolve(config)
    monkeypatch.setattr(module, "train", lambda config, workdir: None)
    module.run(parsed, tmp_path)
    told = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert told == warnings
