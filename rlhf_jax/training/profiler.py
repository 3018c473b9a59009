"""Traces of some of a run's steps, for XProf, TensorBoard's profile page or Perfetto."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax

from rlhf_jax.training.loggers import Logging


class Profiles:
    """Writes traces below a folder: of the steps that the settings name, and of the next few after SIGUSR1.

        with Profiles(workdir / "profile", logging) as profiles:
            for step in ...:
                profiles.before(step)
                ...

    A signal during a trace makes it longer. Signals reach the main thread only. In another, no handler is set.

    Args:
      folder: where each trace gets a folder of its own, `step-<its first step>`.
      logging: the settings.
    """

    def __init__(self, folder: Path, logging: Logging) -> None:
        self._folder, self._logging = folder, logging
        self._asked = False
        self._last: int | None = None  # step of the trace that is being made

    def before(self, step: int) -> None:
        """Ends a trace whose steps are over and begins one that is due."""
        last = self._last or 0
        if self._logging.profile_steps and self._logging.profile_steps[0] <= step:
            last = max(last, self._logging.profile_steps[1])
        if self._asked:
            self._asked, last = False, max(last, step + self._logging.signal_steps - 1)
        if step > last:
            self._end()
        elif self._last is None:
            jax.profiler.start_trace(self._folder / f"step-{step}")
        self._last = last if step <= last else None

    def _end(self) -> None:
        if self._last is not None:
            jax.profiler.stop_trace()
            self._last = None

    def _ask(self, number: int, frame: object) -> None:
        self._asked = True
        # print() could be interrupted by itself here.
        os.write(2, f"\nprofiling the next {self._logging.signal_steps} steps into {self._folder}\n".encode())

    def __enter__(self) -> Profiles:
        self._in_main = threading.current_thread() is threading.main_thread()
        if self._in_main:
            self._previous = signal.signal(signal.SIGUSR1, self._ask)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._in_main:
            signal.signal(signal.SIGUSR1, self._previous)
        self._end()
