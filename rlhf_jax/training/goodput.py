"""How much of a run's time was worth it, over all its restarts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.data.records import write_text

Timing = Mapping[str, Any]


class Goodput:
    """Seconds of steps that count, as a share of the time since the run first started.

    `starts.jsonl` has a line for each start: `time` (seconds since 1970), the `step` that the run went on from, and how
    many steps, and seconds of theirs, had been done after it and were lost (`lost_steps`, `lost_seconds`).

    Args:
      workdir: the run's folder.
      resume_step: the step that the run goes on from; None where there is no checkpoint yet.
      kept: lines of `timing.jsonl` up to that step.
      lost: its later lines.
    """

    def __init__(self, workdir: Path, resume_step: int | None, kept: Iterable[Timing], lost: Sequence[Timing]) -> None:
        path = workdir / "starts.jsonl"
        *before, _ = path.read_text().split("\n") if path.exists() else [""]  # a half-written line is no start
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
        """`goodput` and `lost_seconds` after one more step; `timing` as the run's clock reads it, `now` since 1970."""
        self._productive += _productive(timing)
        return {"goodput": self._productive / (now - self._began), "lost_seconds": self._lost}


def _productive(timing: Timing) -> float:
    return timing.get("seconds", 0.0) - timing.get("compile_seconds", 0.0)
