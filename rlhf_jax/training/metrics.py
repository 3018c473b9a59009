"""A run's numbers: `metrics.jsonl`, `timing.jsonl`, TensorBoard events, and the progress that a person watches."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rlhf_jax import hosts
from rlhf_jax.errors import UserError


class MetricsWriter:
    """Appends scalars to a run's files, one JSON object a line, and to its TensorBoard events.

    `metrics.jsonl` holds what the run computed, without clock readings, so that a run that was killed and resumed
    writes the same bytes as one that was not; `timing.jsonl` holds seconds and rates. For that, write a step's metrics
    before the step's checkpoint. A value that is not finite is written as null, because JSON has no other word for it.

    Args:
      workdir: the run's folder; it must exist.
      resume_step: the checkpoint's step that the run goes on from; later lines are cut off first. None starts afresh.
        Event files cannot be cut, so they are written anew from the lines that stay.

    Raises:
      UserError: a line that is kept is not a JSON object with a step.
    """

    def __init__(self, workdir: Path, resume_step: int | None) -> None:
        from tensorboardX import SummaryWriter

        paths = (workdir / "metrics.jsonl", workdir / "timing.jsonl")
        kept = [_cut_back(path, resume_step) for path in paths]
        for events in workdir.glob("events.out.tfevents.*"):
            events.unlink()
        self._metrics, self._timing = (path.open("a") for path in paths)
        self._events = SummaryWriter(str(workdir), flush_secs=10)
        times = {line["step"]: line["time"] for line in kept[1]}
        for line in (*kept[0], *kept[1]):
            self._add_events(line, times.get(line["step"]))

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Appends `scalars` (Python, NumPy or JAX numbers) to `metrics.jsonl`, sorted by name, at full precision."""
        self._append(self._metrics, {"step": int(step), **_finite(scalars)})

    def timing(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Appends `scalars` and `time` (seconds since 1970) to `timing.jsonl`."""
        self._append(self._timing, {"step": int(step), "time": time.time(), **_finite(scalars)})

    def _append(self, file: TextIO, line: dict[str, Any]) -> None:
        file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        self._add_events(line, line.get("time"))

    def _add_events(self, line: dict[str, Any], at: float | None) -> None:
        for name, value in line.items():
            if name not in ("step", "time") and value is not None:
                self._events.add_scalar(name, value, line["step"], walltime=at)

    def close(self) -> None:
        self._metrics.close()
        self._timing.close()
        self._events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _finite(scalars: Mapping[str, Any]) -> dict[str, float | None]:
    values = {name: float(scalars[name]) for name in sorted(scalars)}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _cut_back(path: Path, step: int | None) -> list[dict[str, Any]]:
    """Leaves in `path` the lines up to `step` and returns them; a killed run's half-written last line goes too."""
    if step is None or not path.exists():
        path.write_bytes(b"")
        return []
    *lines, _ = path.read_text().split("\n")
    kept, records = [], []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if record["step"] <= step:
                kept.append(line + "\n")
                records.append(record)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number} is {line[:60]!r}, expected a JSON object with a step") from error
    partial = path.with_suffix(".jsonl.partial")
    partial.write_text("".join(kept))
    os.replace(partial, path)
    return records


class Progress:
    """How far a loop is: a bar with ETA and tokens/s in a terminal, else a plain line each 10 s or 10 %.

    Of several hosts the main one's is seen.

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
        self._total, self._unit, self._description = total, unit, description
        self._initial = self._done = initial
        self._tokens = 0
        self._stream = stream or sys.stderr
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if self._stream.isatty() and hosts.is_main():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=initial, desc=description, unit=unit, file=self._stream, dynamic_ncols=True
            )

    def update(self, units: int = 1, tokens: int = 0) -> None:
        """Counts `units` more as done, in which `tokens` were processed."""
        tenths = 10 * self._done // self._total
        self._done += units
        self._tokens += tokens
        now = time.monotonic()
        if self._bar is not None:
            if self._tokens:
                self._bar.set_postfix_str(self._rate(now), refresh=False)
            self._bar.update(units)
        elif hosts.is_main() and (now - self._last_line >= 10 or 10 * self._done // self._total > tenths):
            self._last_line = now
            self._print_line(now)

    def _rate(self, now: float) -> str:
        return f"{self._tokens / max(now - self._start, 1e-9):,.0f} tokens/s"

    def _print_line(self, now: float) -> None:
        remaining = (now - self._start) * (self._total - self._done) / max(self._done - self._initial, 1)
        parts = [f"{self._description}: {self._unit} {self._done}/{self._total}"]
        if self._tokens:
            parts.append(self._rate(now))
        if self._done < self._total:
            parts.append(f"{remaining:.0f} s left")
        print(", ".join(parts), file=self._stream, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
