"""Every config in configs/ is complete and fits its stage, so that any of its keys can be set on the command line."""

import copy
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import rows, study
from rlhf_jax.config import to_dict
from rlhf_jax.errors import UserError
from rlhf_jax.stages.runner import check, resolve

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
