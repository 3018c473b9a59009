"""Services that show a run's scalars: TensorBoard's event files, Weights and Biases."""

import dataclasses
import importlib.util
import json
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rlhf_jax.config import Count
from rlhf_jax.errors import UserError
from rlhf_jax.files import write_text, writing

Line = Mapping[str, Any]
"""`step`, scalars by name (None if not finite), and in the last line of a step `time` (seconds since 1970)."""


@dataclasses.dataclass(frozen=True)
class Logging:
    """Logging and profiling of a run beyond its files (docs/logging.md).

    Attributes:
      profile_steps: first and last step of a profile, or ().
      signal_steps: number of steps of a profile that SIGUSR1 starts.
      wandb_project: project at Weights and Biases for the metrics, or "".
    """

    profile_steps: tuple[Count, ...] = ()
    signal_steps: Count = 3
    wandb_project: str = ""

    def check(self) -> None:
        """Raises UserError for wrong steps, or if the package of a chosen service is missing."""
        steps = self.profile_steps
        if steps and not (len(steps) == 2 and steps[0] <= steps[1]):
            raise UserError(f"config.logging.profile_steps is {steps}, expected () or a first and a last step")
        if self.wandb_project and importlib.util.find_spec("wandb") is None:
            raise UserError(
                f"config.logging.wandb_project is {self.wandb_project!r} and wandb is not installed; "
                "pip install -e '.[wandb]' brings it"
            )


class Sink(Protocol):
    """Takes the lines of `metrics.jsonl` and `timing.jsonl` as they are written."""

    def add(self, line: Line) -> None: ...

    def close(self) -> None: ...


def scalars(line: Line) -> dict[str, float]:
    """Returns the scalars of a line that are finite."""
    return {name: value for name, value in line.items() if name not in ("step", "time") and value is not None}


class TensorBoard:
    """Event files in the workdir. They cannot be cut, so they are rewritten from the kept lines.

    Args:
      workdir: the run's folder.
      kept: lines of a run that is resumed.
    """

    def __init__(self, workdir: Path, kept: Iterable[Line]) -> None:
        # Not its `SummaryWriter`: where the disk is full, that writer's thread ends and the run waits for it for ever.
        from tensorboardX.event_file_writer import EventsWriter

        for events in workdir.glob("events.out.tfevents.*"):
            events.unlink()
        self._workdir = workdir
        with writing(workdir / "events"):
            self._events = EventsWriter(str(workdir / "events"))
        kept = list(kept)
        times = {line["step"]: line["time"] for line in kept if "time" in line}
        for line in kept:
            self.add({"time": times.get(line["step"]), **line})

    def add(self, line: Line) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        moment = line.get("time") or time.time()
        with writing(self._workdir / "events"):
            for name, value in scalars(line).items():
                event = Event(wall_time=moment, step=line["step"], summary=scalar(name, value))
                self._events.write_event(event)
            self._events.flush()

    def close(self) -> None:
        with writing(self._workdir / "events"):
            self._events.close()


class WeightsAndBiases:
    """A run of a project at Weights and Biases. `WANDB_MODE=offline` stores it in `workdir/wandb`, to sync later.

    A resumed run continues there too, by the id in `workdir/wandb_id`. Steps that it already has are not sent again:
    they have the same numbers.

    Args:
      workdir: the run's folder. Its `config.json`, if it is there, becomes the run's config.
      project: name of the project.

    Raises:
      UserError: the service refuses, e.g. without a key.
    """

    def __init__(self, workdir: Path, project: str) -> None:
        import wandb

        config = workdir / "config.json"
        try:
            self._run = wandb.init(
                project=project,
                id=_kept_id(workdir / "wandb_id"),
                resume="allow",
                name=f"{workdir.absolute().parent.name}/{workdir.absolute().name}",
                dir=workdir,
                config=json.loads(config.read_text()) if config.exists() else None,
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise UserError(f"config.logging.wandb_project is {project!r} and wandb says: {error}") from error

    def add(self, line: Line) -> None:
        if line["step"] >= self._run.step:
            self._run.log(scalars(line), step=line["step"], commit="time" in line)

    def close(self) -> None:
        self._run.finish()


def _kept_id(path: Path) -> str:
    """Reads the id in a file, which is created if it is missing."""
    if not path.exists():
        write_text(path, secrets.token_hex(8) + "\n")
    return path.read_text().strip()
