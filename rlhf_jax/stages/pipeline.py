"""Stage `pipeline`: a whole study, its stages one after another in this process, each in its own folder.

A stage's inputs are files that earlier stages wrote. `{workdir}` in its config stands for the study's folder. Every
config is checked before the first stage starts. Re-running goes on where the study stopped: a finished stage returns at
once.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

from rlhf_jax.config import NOT_EMPTY, Seed
from rlhf_jax.stages import runner


@dataclasses.dataclass(frozen=True)
class Config:
    """A study.

    Attributes:
      stage: "pipeline".
      title: what the study is, in a few words.
      seed: the study's seed. Configs share it with the stages by a `FieldReference`. Runs that differ only in it are
        seeds of one study to the report.
      stages: a stage's config by the name of its folder below the workdir, in the order in which they run. A
        `ConfigDict` sorts its keys unless it is made with `sort_keys=False`.
    """

    stage: str
    title: str
    seed: Seed
    stages: Annotated[dict[str, dict[str, Any]], NOT_EMPTY]


def run(config: Config, workdir: Path) -> None:
    """Runs the stages in `workdir/<name>`, printing a line with the seconds of each.

    Raises:
      UserError: a stage's config is wrong (before any stage has run), or a stage refuses its input.
    """
    for name, stage in config.stages.items():
        runner.check(stage, workdir, f"config.stages.{name}")
    start = time.monotonic()
    for index, (name, stage) in enumerate(config.stages.items(), start=1):
        stage_start = time.monotonic()
        runner.run_stage(stage, workdir / name, study=workdir, where=f"config.stages.{name}")
        print(f"[{index}/{len(config.stages)}] {name}: {time.monotonic() - stage_start:.1f} s", flush=True)
    print(f"all {len(config.stages)} stages are complete in {workdir} ({time.monotonic() - start:.1f} s)", flush=True)
