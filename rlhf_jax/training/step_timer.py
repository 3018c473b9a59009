"""Timing of a step's phases."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from rlhf_jax.parallel import sharding
from rlhf_jax.parallel.chips import PEAK_FLOPS
from rlhf_jax.parallel.jit import compile_seconds


class Clock:
    """Seconds by phase, from lap to lap. What no phase covers is the host's: logs, checkpoints, Python."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lap, self._compiling = time.perf_counter(), compile_seconds()
        peak = PEAK_FLOPS.get(sharding.device().device_kind)
        self._peak = peak and peak * sharding.device_count()

    def time[T](self, phase: str, function: Callable[..., T], *arguments: Any) -> T:
        """Calls `function(*arguments)`, waits for the result and adds the seconds to `phase`, its name in profiles.

        Raises:
          jax.errors.JaxRuntimeError: the function moves an array between host and device without saying so, by
            `jax.device_put` or `jax.device_get`.
        """
        began = time.perf_counter()
        with jax.transfer_guard("disallow"), jax.profiler.TraceAnnotation(phase):
            result = jax.block_until_ready(function(*arguments))
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - began
        return result

    def lap(self, tokens: int, flops: Mapping[str, float]) -> dict[str, float]:
        """Timing since the last lap. Starts the next one.

        Args:
          tokens: how many were processed.
          flops: floating-point operations by phase, of all devices.

        Returns:
          `seconds` in all, by phase, the host's, and those of the compiler, whichever they fell in. Tokens and
          operations a second. The MFU, in all and by phase, where the devices' peak is known (docs/logging.md). And
          with a phase `data`, which is the wait for a batch, its share of the lap as `data_wait`.
        """
        now, compiling = time.perf_counter(), compile_seconds()
        seconds, self._lap = now - self._lap, now
        compiled, self._compiling = compiling - self._compiling, compiling
        phases, self._seconds = self._seconds, {}
        mfu = {}
        if self._peak:
            mfu = {f"{name}_mfu": flops[name] / (phases[name] * self._peak) for name in flops}
            mfu["mfu"] = sum(flops.values()) / (seconds * self._peak)
        return {
            "seconds": seconds,
            **{f"{name}_seconds": taken for name, taken in phases.items()},
            **({"data_wait": phases["data"] / seconds} if "data" in phases else {}),
            "host_seconds": seconds - sum(phases.values()),
            "compile_seconds": compiled,
            "tokens_per_second": tokens / seconds,
            "flops_per_second": sum(flops.values()) / seconds,
            **mfu,
        }
