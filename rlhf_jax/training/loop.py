"""Training-run scaffolding: resume, logging, checkpoints, signals."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.files import whole
from rlhf_jax.parallel import hosts, sharding
from rlhf_jax.parallel.devices import memory_peak
from rlhf_jax.parallel.jit import compile_count
from rlhf_jax.training.best_checkpoint import Selection
from rlhf_jax.training.checkpoint import Checkpoints
from rlhf_jax.training.config import TrainingConfig
from rlhf_jax.training.loggers import Logging
from rlhf_jax.training.metrics_log import MetricsWriter, Progress
from rlhf_jax.training.profiler import Profiles
from rlhf_jax.training.signals import stop_on_signal
from rlhf_jax.training.state import State

FINITE = ("loss", "gradient_norm", "parameter_norm")
"""What has to be finite for a step's state to be kept; the last is of the trained parameters after the step."""


class Loop:
    """A run's files and signals around a plain `for`:

        with Loop(workdir, "sft", config.steps, config.checkpoint_every) as loop:
            state = loop.restore(state, trunk)
            for step in loop.steps():
                state, metrics = train_step(state, ...)
                loop.log(step, metrics, seconds, tokens, batch)
                loop.save_if_due(step, state, meta)

    The first Ctrl-C or SIGTERM ends `steps` after the next step that `save_if_due` has saved.

    Args:
      workdir: the run's folder.
      name: what the progress line calls the run.
      steps: of the whole run.
      checkpoint_every: steps between checkpoints. The last step is saved in any case.
      selection: what the best checkpoint is the best by, and which one later stages load. By default the latest.
      grace: seconds that a step may go on after SIGTERM (see `stop_on_signal`). 0 for as long as it takes.
      logging: what the run shows of itself beside its files. By default a profile on SIGUSR1 alone.
      vocabulary: as in `Checkpoints`.
    """

    def __init__(
        self,
        workdir: Path,
        name: str,
        steps: int,
        checkpoint_every: int,
        selection: Selection | None = None,
        grace: float = 0.0,
        logging: Logging | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self._workdir, self._name, self._steps, self._every = workdir, name, steps, checkpoint_every
        self._grace, self._logging, self._vocabulary = grace, logging or Logging(), vocabulary
        self._selection = selection or Selection()
        self._best: dict[str, Any] | None = None  # metric, value and step, as in the checkpoints' meta
        self._start = 0
        self._stopping = False

    @classmethod
    def of(
        cls, config: TrainingConfig, workdir: Path, steps: int, vocabulary: int, selection: Selection | None = None
    ) -> Loop:
        """The loop of the stage that has this config. The other arguments are those of `Loop`."""
        every, grace, logging = config.checkpoint_every, config.stop_grace, config.logging
        return cls(workdir, config.stage, steps, every, selection, grace, logging, vocabulary)

    def __enter__(self) -> Loop:
        with contextlib.ExitStack() as stack:
            self._stop = stack.enter_context(stop_on_signal(self._grace))
            checkpoints = Checkpoints(self._workdir / "checkpoints", vocabulary=self._vocabulary)
            self._checkpoints = stack.enter_context(checkpoints)
            latest = self._checkpoints.latest()
            hosts.agree(f"the start of {self._name}", {"the latest checkpoint in the workdir": latest})
            self._profiles = stack.enter_context(Profiles(self._workdir / "profile", self._logging))
            writer = MetricsWriter(self._workdir, latest, self._logging.wandb_project) if hosts.is_main() else None
            self._writer = stack.enter_context(writer) if writer else None
            progress = Progress(self._steps, description=self._name, initial=latest or 0)
            self._progress = stack.enter_context(progress)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        return self._stack.__exit__(*exception)

    def restore(self, state: State, trunk: str) -> State:
        """The state of the latest checkpoint, or `state` itself where there is none.

        Args:
          state: a fresh one.
          trunk: fingerprint of the trunk that the run trains on, as in the checkpoints' meta.

        Raises:
          UserError: the checkpoint's top was trained on another trunk, or its arrays differ in name, shape or dtype.
        """
        if self._checkpoints.latest() is not None:
            meta = self._checkpoints.meta()
            before = meta["trunk"]
            if before != trunk:
                raise UserError(
                    f"{self._workdir} was trained on the trunk {before[:12]} and the model's is {trunk[:12]} now; "
                    "choose another workdir, or go back to that model"
                )
            state = self._checkpoints.restore(state)
            self._best = meta.get("best")
        self._start = int(state.step)
        return state

    def steps(self) -> Iterator[int]:
        """The numbers of the steps to run, counted from 1."""
        for step in range(self._start + 1, self._steps + 1):
            self._profiles.before(step)
            yield step
            if self._stopping:
                return

    def is_due(self, step: int, every: int) -> bool:
        """True every `every` steps and after the last step."""
        return step % every == 0 or step == self._steps

    def is_best(self, metrics: Mapping[str, float]) -> bool:
        """True if these metrics, which are not logged yet, make their step the best so far by the run's selection."""
        return self._selection.improves(metrics, None if self._best is None else self._best["value"])

    def require_finite(self, step: int, metrics: Mapping[str, float], batch: Any = None) -> None:
        """Stops a run whose step failed. What evaluates the new state asks first.

        Args:
          step: its number.
          metrics: its scalars, those of `FINITE` among them.
          batch: the pytree of arrays that it learned from, kept in the workdir if the step failed.

        Raises:
          UserError: the loss is not finite, or the gradient or the new parameters, which may be spoilt while the loss
            is still good. Checkpoints of earlier steps stay as they are.
        """
        for name in FINITE:
            if not math.isfinite(metrics[name]):
                left = self._left(step, batch)
                raise UserError(f"{self._name}: the {name} of step {step} is {metrics[name]}; {left}")

    def log(
        self, step: int, metrics: Mapping[str, float], timing: Mapping[str, float], tokens: int, batch: Any = None
    ) -> None:
        """Writes a step's numbers and moves the progress on.

        Args:
          step: its number.
          metrics: its scalars, those of `FINITE` among them.
          timing: its clock readings.
          tokens: how many it processed.
          batch: as `require_finite`.

        Raises:
          UserError: as `require_finite`.
        """
        self.require_finite(step, metrics, batch)
        if self.is_best(metrics):
            self._best = {"metric": self._selection.metric, "value": metrics[self._selection.metric], "step": step}
        if self._writer is not None:
            self._writer.write(step, metrics)
            self._writer.timing(step, {**timing, "programs": compile_count(), **memory_peak()})
        self._progress.update(1, tokens)

    def save_if_due(self, step: int, state: State, meta: Mapping[str, Any]) -> None:
        """Starts to write a checkpoint if one is due, the step is the best so far or the run was asked to stop."""
        self._stopping = self._stop.agreed()  # read once: a signal after this waits for the next step's save
        best = None if self._best is None else self._best["step"]
        if self._stopping or best == step or self.is_due(step, self._every):
            chosen = {} if best is None else {"best": self._best}
            if best is not None and self._selection.load == "best":
                chosen["load"] = best
            self._checkpoints.save(step, state, {**meta, **chosen}, best=best)

    def _left(self, step: int, batch: Any) -> str:
        """Names the last good checkpoint after a failed step, and saves the step's batch to a file."""
        self._checkpoints.wait()
        good = self._checkpoints.latest()
        standing = "no checkpoint is complete yet" if good is None else f"the last good checkpoint is step {good}"
        if batch is None:
            return standing
        path = self._workdir / f"failed_step_{step}.npz"
        leaves = jax.tree.leaves_with_path(sharding.whole(batch))
        if hosts.is_main():
            with whole(path) as partial, partial.open("wb") as file:
                np.savez(file, **{jax.tree_util.keystr(key, simple=True, separator="."): leaf for key, leaf in leaves})
        return f"{standing}, and the step's batch is in {path}"


def is_finished(workdir: Path, steps: int) -> bool:
    """True if a run's last checkpoint exists."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.latest() == steps
