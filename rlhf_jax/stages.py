"""The stages by name, and the one way to run one: check its config, claim its folder, call it.

`main` runs the stage that a config names; `pipeline` runs several. A stage is imported when it is asked for, so naming
one costs nothing and none of them imports another.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf_jax import hosts
from rlhf_jax.config import parse, suggest, to_dict
from rlhf_jax.errors import UserError

STAGES = {
    "prepare": "rlhf_jax.prepare",
    "generate_tasks": "rlhf_jax.generate_tasks",
    "initialize": "rlhf_jax.initialize",
    "add_difference": "rlhf_jax.add_difference",
    "sft": "rlhf_jax.sft",
    "preferences": "rlhf_jax.preferences",
    "reward": "rlhf_jax.reward",
    "score": "rlhf_jax.score",
    "ppo": "rlhf_jax.ppo",
    "best_of_n": "rlhf_jax.best_of_n",
    "generate": "rlhf_jax.generation",
    "convert": "rlhf_jax.evaluation.convert",
    "evaluate": "rlhf_jax.evaluation.evaluate",
    "judge": "rlhf_jax.evaluation.judge",
    "agreement": "rlhf_jax.evaluation.agreement",
    "annotate": "rlhf_jax.evaluation.annotate",
    "report": "rlhf_jax.evaluation.report",
    "frontier": "rlhf_jax.evaluation.frontier",
    "export": "rlhf_jax.export",
    "pipeline": "rlhf_jax.pipeline",
}

# The stages that compute on the mesh. The others run on the main process alone, as long as they take.
ON_EVERY_HOST = frozenset({"sft", "reward", "score", "ppo", "best_of_n", "generate", "pipeline"})
DAYS = 10 * 24 * 3600.0  # seconds

# Keys, at any depth and some with the key above, that a resumed run may set anew: how often it saves and measures, how
# it divides a batch and on how many devices, how it compiles, where its inputs lie, how it is watched and deals with an
# endpoint.
MAY_CHANGE = frozenset(
    {
        *("checkpoint_every", "stop_grace", "evaluate_every", "microbatch", "sampling_batch"),
        *("model", "data", "mesh", "fsdp", "tensor", "workers", "blocks.scan", "blocks.remat"),
        *("rules", "rules.embed", "rules.vocab", "rules.kv_heads", "rules.mlp"),
        *("profile_steps", "signal_steps", "wandb_project"),
        *("place", "indices", "quality", "sampling.batch_size"),
        *("key_variable", "concurrency", "requests_per_minute", "timeout", "attempts", "first_wait"),
        *("prompt_price", "answer_price", "limit", "cache", "requests"),
    }
)


def resolve(config: Mapping[str, Any], where: str = "config") -> tuple[ModuleType, Any]:
    """The module of the stage that `config` names, and `config` as that module's `Config`.

    Raises:
      UserError: `stage` is missing or unknown, or the config does not fit the stage.
    """
    if "stage" not in config:
        raise UserError(f"{where} lacks the key 'stage'; expected one of {', '.join(STAGES)}")
    stage = config["stage"]
    if stage not in STAGES:
        raise UserError(f"{where}.stage is {stage!r}; {suggest(stage, STAGES)}")
    module = importlib.import_module(STAGES[stage])
    return module, parse(module.Config, config, where)


def check(config: Mapping[str, Any], study: Path, where: str = "config") -> None:
    """Raises what `resolve` does for a config, and for those of a pipeline's stages, before anything runs.

    Args:
      config: of a stage, or of a whole study.
      study: what `{workdir}` in its strings stands for.
      where: how messages name it.
    """
    _, parsed = resolve(substitute(config, study), where)
    for name, stage in getattr(parsed, "stages", {}).items():
        check(stage, study, f"{where}.stages.{name}")


def run_stage(config: Mapping[str, Any], workdir: Path, study: Path | None = None, where: str = "config") -> None:
    """Runs the stage that `config` names in `workdir`, from where it stopped; returns when every host has.

    Args:
      config: the stage's config as plain data (`rlhf_jax.config.to_dict`).
      workdir: the stage's folder.
      study: what `{workdir}` in the config's strings stands for. `workdir/config.json` keeps the strings as written, so
        a study's folder may be moved and resumed.
      where: how messages name the config.

    Raises:
      UserError: the config does not fit the stage, `workdir` was written by another config, or not every host sees it.
    """
    module, parsed = resolve(config if study is None else substitute(config, study), where)
    if hosts.is_main():
        claim(workdir, config)
    hosts.barrier(f"{where}, its start")
    if not (workdir / "config.json").exists():
        raise UserError(
            f"{workdir} is not what process 0 sees there; several hosts need a workdir on storage that they share"
        )
    if hosts.is_main() or config["stage"] in ON_EVERY_HOST:
        module.run(parsed, workdir)
    hosts.barrier(f"{where}, its end", timeout=DAYS)


def substitute(config: Any, study: Path) -> Any:
    """`config` with `{workdir}` in every string replaced by `study`; a pipeline's stages keep it for its own folder."""
    if isinstance(config, Mapping):
        inner = {"stages"} if config.get("stage") == "pipeline" else set()
        return {key: value if key in inner else substitute(value, study) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [substitute(value, study) for value in config]
    return config.replace("{workdir}", str(study)) if isinstance(config, str) else config


def claim(workdir: Path, config: Mapping[str, Any]) -> None:
    """Makes `workdir` and writes `config.json` into it, unless another config has written there before.

    Keys in `MAY_CHANGE` may differ, and under a constant learning rate `steps` as well; a line is printed that says so.
    A config that was refused before it wrote anything is forgotten.

    Raises:
      UserError: the folder cannot be written, or other keys differ; they are named with both values.
    """
    path = workdir / "config.json"
    config = to_dict(config)
    if path.exists() and _has_results(workdir):
        try:
            old = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is not JSON ({error}); restore it or choose another workdir") from error
        allowed, refused = differences(old, config)
        if refused:
            raise UserError(
                f"{workdir} was written by another config ({'; '.join(refused)}); "
                "choose another workdir, or go back to those values"
            )
        if allowed:
            print(f"{workdir} goes on with {'; '.join(allowed)}", flush=True)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".json.partial")
        partial.write_text(json.dumps(config, indent=2) + "\n")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"the workdir {workdir} cannot be written: {error.strerror}") from error


def _has_results(workdir: Path) -> bool:
    """Whether anything lies below `workdir` but the configs of stages that got no further."""
    return any(path.is_file() and path.name != "config.json" for path in workdir.rglob("*"))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> tuple[list[str], list[str]]:
    """`key: old -> new` for each key, at any depth, that differs: those that a run may change, and those it may not.

    A microbatch may change unless a quirk of the study's code gives it a meaning.
    """
    optimizer = new.get("optimizer")
    quirks = to_dict(new.get("algorithm", {})).get("paper", {})
    meant = new.get("mean_over") == "microbatch" or bool(quirks.get("whiten_microbatches"))
    constant = isinstance(optimizer, Mapping) and optimizer.get("schedule") == "constant"
    allowed: list[str] = []
    refused: list[str] = []
    for key in [*old, *(key for key in new if key not in old)]:
        if isinstance(old.get(key), Mapping) and isinstance(new.get(key), Mapping):
            below = differences(old[key], new[key], f"{prefix}{key}.")
            allowed += below[0]
            refused += below[1]
        elif key not in old or key not in new or old[key] != new[key]:
            before, after = (json.dumps(config[key]) if key in config else "absent" for config in (old, new))
            last_two = ".".join(f"{prefix}{key}".split(".")[-2:])
            may_change = not MAY_CHANGE.isdisjoint((key, last_two)) or (key == "steps" and constant)
            may_change &= not (key == "microbatch" and meant)
            (allowed if may_change else refused).append(f"{prefix}{key}: {before} -> {after}")
    return allowed, refused
