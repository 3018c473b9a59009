"""The stages by name, and the one way to run one: check its config, lock and claim its folder, call it.

`main` runs the stage that a config names. `pipeline` runs several. A stage is imported when it is asked for, so naming
one costs nothing and none of them imports another.
"""

import contextlib
import dataclasses
import importlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from rlhf_jax.config import parse, suggest, to_dict
from rlhf_jax.errors import UserError
from rlhf_jax.files import room
from rlhf_jax.lock import locked
from rlhf_jax.parallel import hosts
from rlhf_jax.stages import inputs
from rlhf_jax.stages.resume import claim, finish

# Every stage is the module of its name, and says where it runs: "mesh" on the devices of every host, "main" on the main
# process with its devices, "cpu" on the main process without an accelerator, which stays free for training.
STAGES: dict[str, Literal["mesh", "main", "cpu"]] = {
    "prepare": "cpu",
    "generate_tasks": "main",
    "initialize": "main",
    "recover_weight_diff": "main",
    "sft": "mesh",
    "preferences": "main",
    "reward": "mesh",
    "score": "mesh",
    "ppo": "mesh",
    "best_of_n": "mesh",
    "generate": "mesh",
    "convert": "cpu",
    "evaluate": "cpu",
    "judge": "cpu",
    "agreement": "cpu",
    "annotation_page": "cpu",
    "report": "cpu",
    "reward_vs_kl": "cpu",
    "export": "main",
    "pipeline": "mesh",
}
RENAMED = {"add_difference": "recover_weight_diff", "annotate": "annotation_page", "frontier": "reward_vs_kl"}
DAYS = 10 * 24 * 3600.0  # seconds


def resolve(config: Mapping[str, Any], where: str = "config") -> tuple[ModuleType, Any]:
    """The module of the stage that `config` names, and `config` as that module's `Config`.

    Raises:
      UserError: `stage` is missing or unknown, or the config does not fit the stage.
    """
    if "stage" not in config:
        raise UserError(f"{where} lacks the key 'stage'; expected one of {', '.join(STAGES)}")
    stage = config["stage"]
    if not isinstance(stage, str):
        raise UserError(f"{where}.stage is {stage!r}; expected one of {', '.join(STAGES)}")
    if stage in RENAMED:
        raise UserError(f"{where}.stage is {stage!r}, which is {RENAMED[stage]!r} now")
    if stage not in STAGES:
        raise UserError(f"{where}.stage is {stage!r}; {suggest(stage, STAGES)}")
    module = importlib.import_module(f"rlhf_jax.stages.{stage}")
    return module, parse(module.Config, config, where)


def check(config: Mapping[str, Any], study: Path, where: str = "config") -> None:
    """Checks the settings of a stage, and of a pipeline's stages, before anything runs, on whatever machine.

    Args:
      config: of a stage, or of a whole study.
      study: what `{workdir}` in its strings stands for.
      where: how messages name it.

    Raises:
      UserError: as `resolve`, or the stage refuses its settings.
    """
    module, parsed = resolve(substitute(config, study), where)
    if hasattr(module, "check"):
        with _named(where):
            module.check(parsed)
    for name, stage in getattr(parsed, "stages", {}).items():
        check(stage, study / name if stage.get("stage") == "pipeline" else study, f"{where}.stages.{name}")


def check_here(
    config: Mapping[str, Any], study: Path, folder: Path, earlier: dict[Path, Any], where: str = "config"
) -> None:
    """Checks what this machine has for a stage, or for a pipeline's stages: devices, packages, keys and inputs.

    Args:
      config: of a stage, or of a study, with settings that `check` has passed.
      study: what `{workdir}` in its strings stands for.
      folder: the stage's own.
      earlier: the configs of stages that run before it, by their folders. Grows by the stages that are checked.
      where: how messages name the config.

    Raises:
      UserError: something is missing.
    """
    module, parsed = resolve(substitute(config, study), where)
    for name, stage in getattr(parsed, "stages", {}).items():
        inner = folder / name
        check_here(
            stage, inner if stage.get("stage") == "pipeline" else folder, inner, earlier, f"{where}.stages.{name}"
        )
    if hasattr(module, "check_here"):
        with _named(where):
            module.check_here(parsed)
    if hosts.is_main() or STAGES[parsed.stage] == "mesh":
        found = itertools.chain(
            inputs.named(parsed), module.also_reads(parsed) if hasattr(module, "also_reads") else ()
        )
        inputs.require(found, earlier, where)
    if not hasattr(parsed, "stages"):
        earlier[folder] = parsed


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Names the stage in errors, whose `config` is the stage's own."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def run_stage(config: Mapping[str, Any], workdir: Path, study: Path | None = None, where: str = "config") -> None:
    """Runs the stage that `config` names in `workdir`, from where it stopped. Returns when every host has.

    Args:
      config: the stage's config as plain data (`rlhf_jax.config.to_dict`).
      workdir: the stage's folder.
      study: what `{workdir}` in the config's strings stands for. `workdir/config.json` keeps the strings as written, so
        a study's folder may be moved and resumed.
      where: how messages name the config.

    Raises:
      UserError: the config does not fit the stage, as `lock.locked` and `resume.claim`, or not every host sees
        `workdir`. The disk is full.
    """
    module, parsed = resolve(config if study is None else substitute(config, study), where)
    with contextlib.ExitStack() as held, room(workdir):
        refusal = ""
        if hosts.is_main():
            try:
                held.enter_context(locked(workdir))
                claim(workdir, to_dict(config), _with_stages(parsed, where))
            except UserError as error:
                refusal = str(error)
        if refusal := hosts.exchange(f"{where}, its start", refusal)[0]:  # every host says it, and none waits
            raise UserError(refusal)
        if not (workdir / "config.json").exists():
            raise UserError(
                f"{workdir} is not what process 0 sees there; several hosts need a workdir on storage that they share"
            )
        if hosts.is_main() or STAGES[config["stage"]] == "mesh":
            module.run(parsed, workdir)
        if hosts.is_main():
            finish(workdir)
        hosts.barrier(f"{where}, its end", timeout=DAYS)


def _with_stages(config: Any, where: str) -> Any:
    """A stage's config. A pipeline's with its stages as dataclasses too, at any depth."""
    if not hasattr(config, "stages"):
        return config
    stages = {
        name: _with_stages(resolve(stage, f"{where}.stages.{name}")[1], f"{where}.stages.{name}")
        for name, stage in config.stages.items()
    }
    return dataclasses.replace(config, stages=stages)


def substitute(config: Any, study: Path) -> Any:
    """`config` with `{workdir}` in every string replaced by `study`. A pipeline's stages keep it for its own folder."""
    if isinstance(config, Mapping):
        inner = {"stages"} if config.get("stage") == "pipeline" else set()
        return {key: value if key in inner else substitute(value, study) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [substitute(value, study) for value in config]
    return config.replace("{workdir}", str(study)) if isinstance(config, str) else config
