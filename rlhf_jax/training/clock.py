"""Where a step's seconds go."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax


class Clock:
    """Seconds by phase, from lap to lap; what no phase covers is the host's: logs, checkpoints, Python."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lap = time.perf_counter()

    def time[T](self, phase: str, function: Callable[..., T], *arguments: Any) -> T:
        """`function(*arguments)`, waited for, its seconds counted for `phase`."""
        began = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - began
        return result

    def lap(self, tokens: int) -> dict[str, float]:
        """Seconds since the last lap, in all, by phase and the host's, and tokens per second; starts the next lap.

        With a phase `data`, which is the wait for a batch, `data_wait` is its share of the lap.
        """
        now = time.perf_counter()
        seconds, self._lap = now - self._lap, now
        phases, self._seconds = self._seconds, {}
        by_phase = {f"{name}_seconds": taken for name, taken in phases.items()}
        by_phase |= {"data_wait": phases["data"] / seconds} if "data" in phases else {}
        host = seconds - sum(phases.values())
        return {"seconds": seconds, **by_phase, "host_seconds": host, "tokens_per_second": tokens / seconds}
