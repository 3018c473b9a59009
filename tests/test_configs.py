"""Every config in configs/ is complete and fits its stage, so that any of its keys can be set on the command line."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from rlhf_jax.config import to_dict
from rlhf_jax.stages import resolve

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.rglob("*.py")
    if path.stem not in ("__init__", "common") and path.parent.name != "sweeps"  # tests/launch has those
)
VARIANTS = [(name, None) for name in FILES] + [
    ("quickstart", "long"),
    ("annotate", "runs/quickstart,judge"),
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


@pytest.mark.parametrize(
    "name",
    ["quickstart", "prepare", "generate_tasks", "paper/sft", "paper/reward", "paper/ppo", "paper/best_of_n"],
)
def test_an_unknown_argument_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name}.py: 'short' is unknown"):
        load(name, "short")


def test_the_seed_reaches_every_stage():
    module, _ = load("tiny", None)
    config = module.get_config()
    config.seed = 7
    seeds = {value for stage in to_dict(config)["stages"].values() for value in find(stage, "seed")}
    assert seeds == {7}


def find(config: dict, key: str):
    for name, value in config.items():
        if isinstance(value, dict):
            yield from find(value, key)
        elif name == key:
            yield value
