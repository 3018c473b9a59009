"""The numbers of a run: `metrics.jsonl`, `timing.jsonl`, their sinks, and a progress bar."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from rlhf_jax.errors import UserError
from rlhf_jax.files import write_text, writing
from rlhf_jax.parallel import hosts
from rlhf_jax.training.goodput import Goodput
from rlhf_jax.training.loggers import Sink, TensorBoard, WeightsAndBiases

SECONDS_PER_LINE = 10.0


class MetricsWriter:
    """Appends scalars to a run's files, one JSON object per line, and passes them to sinks.

    `metrics.jsonl` contains computed numbers without clock readings. So a run that was killed and resumed writes the
    same bytes as one that was not, if a step's metrics are written before its checkpoint. `timing.jsonl` contains
    seconds and rates. A value that is not finite is written as null, because JSON has no other word for it.

    Args:
      workdir: the run's folder. It must exist.
      resume_step: step of the checkpoint that the run continues from. Later lines are removed. None starts anew.
      wandb_project: project at Weights and Biases for the scalars, or "".

    Raises:
      UserError: a line is not a JSON object with a step, or Weights and Biases refuses the project.
    """

    def __init__(self, workdir: Path, resume_step: int | None, wandb_project: str = "") -> None:
        paths = (workdir / "metrics.jsonl", workdir / "timing.jsonl")
        (metrics, _), (timing, lost) = (_cut_back(path, resume_step) for path in paths)
        self._sinks: list[Sink] = [TensorBoard(workdir, [*metrics, *timing])]
        if wandb_project:
            self._sinks.append(WeightsAndBiases(workdir, wandb_project))
        self._goodput = Goodput(workdir, resume_step, timing, lost)
        self._stack = contextlib.ExitStack()
        self._metrics, self._timing = (self._stack.enter_context(_opened(path)) for path in paths)
        for sink in self._sinks:
            self._stack.callback(sink.close)

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Appends numbers of Python, NumPy or JAX to `metrics.jsonl`, sorted by name, at full precision."""
        self._append(self._metrics, {"step": int(step), **_finite(scalars)})

    def timing(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Appends `scalars`, `time` (seconds since 1970) and the run's goodput to `timing.jsonl`. Ends the step."""
        now = time.time()
        scalars = {**scalars, **self._goodput.after(now, scalars)}
        self._append(self._timing, {"step": int(step), "time": now, **_finite(scalars)})

    def _append(self, file: TextIO, line: dict[str, Any]) -> None:
        with writing(Path(file.name)):
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
        for sink in self._sinks:
            sink.add(line)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A file to append to. What a full disk kept from being written fails once more when it is closed."""
    with writing(path), path.open("a") as file:
        yield file


def _finite(scalars: Mapping[str, Any]) -> dict[str, float | None]:
    values = {name: float(scalars[name]) for name in sorted(scalars)}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _cut_back(path: Path, step: int | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Keeps the lines of `path` up to `step` and returns them and the others. A partial last line is removed too."""
    *lines, _ = path.read_text().split("\n") if path.exists() else [""]
    last = -1 if step is None else step
    kept, records, lost = [], [], []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if record["step"] <= last:
                kept.append(line + "\n")
                records.append(record)
            else:
                lost.append(record)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number} is {line[:60]!r}, expected a JSON object with a step") from error
    write_text(path, "".join(kept))
    return records, lost


class Progress:
    """Shows how far a loop is and its tokens/s: a bar in a terminal, and otherwise a line per 10 s.

    Only the main host's is seen.

    Args:
      total: units in the whole loop.
      unit: what is counted, e.g. "step".
      description: the loop's name.
      initial: units done before, when the loop is resumed.
      stream: where to write.
    """

    def __init__(
        self, total: int, unit: str = "step", description: str = "", initial: int = 0, stream: TextIO | None = None
    ) -> None:
        from tqdm import tqdm

        stream = stream or sys.stderr
        terminal = stream.isatty()
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=description,
            unit=unit,
            file=stream,
            mininterval=0.1 if terminal else SECONDS_PER_LINE,
            dynamic_ncols=terminal,
            bar_format=None if terminal else "{desc}: {unit} {n_fmt}/{total_fmt}{postfix}, {remaining} left\n",
            disable=not hosts.is_main(),
        )
        self._tokens = 0
        self._start = time.monotonic()

    def update(self, units: int = 1, tokens: int = 0) -> None:
        """Counts `units` more as done, in which `tokens` were processed."""
        self._tokens += tokens
        if self._tokens:
            rate = self._tokens / max(time.monotonic() - self._start, 1e-9)
            self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        self._bar.update(units)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
