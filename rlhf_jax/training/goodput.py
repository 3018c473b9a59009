"""Goodput: the fraction of a run's time in steps that count, over all restarts."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.files import write_text

Timing = Mapping[str, Any]


class Goodput:
    """Seconds of steps that count, as a fraction of the time since the run first started.

    `starts.jsonl` has a line per start: `time` (seconds since 1970), the `step` that the run continued from, and the
    later steps that were lost, with their seconds (`lost_steps`, `lost_seconds`).

    Args:
      workdir: the run's folder.
      resume_step: step that the run continues from. None if there is no checkpoint yet.
      kept: lines of `timing.jsonl` up to that step.
      lost: its later lines.
    """

    def __init__(self, workdir: Path, resume_step: int | None, kept: Iterable[Timing], lost: Sequence[Timing]) -> None:
        path = workdir / "starts.jsonl"
        *before, _ = path.read_text().split("\n") if path.exists() else [""]  # a partial line is dropped
        start = {
            "time": time.time(),
            "step": resume_step or 0,
            "lost_steps": len(lost),
            "lost_seconds": sum(line.get("seconds", 0.0) for line in lost),
        }
        write_text(path, "\n".join([*before, json.dumps(start), ""]))
        starts = [*map(json.loads, before), start]
        self._began = starts[0]["time"]
        self._lost = sum(line["lost_seconds"] for line in starts)
        self._productive = sum(map(_productive, kept))

    def after(self, now: float, timing: Timing) -> dict[str, float]:
        """Returns `goodput` and `lost_seconds` after one more step with `timing`, at `now` (seconds since 1970)."""
        self._productive += _productive(timing)
        return {"goodput": self._productive / (now - self._began), "lost_seconds": self._lost}


def _productive(timing: Timing) -> float:
    return timing.get("seconds", 0.0) - timing.get("compile_seconds", 0.0)
