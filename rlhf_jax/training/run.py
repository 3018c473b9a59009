"""Small things that every training loop needs: stopping on a signal, compiling, counting, choosing a dtype."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import hosts, sharding
from rlhf_jax.errors import UserError

CPUINFO = Path("/proc/cpuinfo")
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_compiled, _compile_seconds = 0, 0.0


class Stop:
    """Whether the run was asked to stop.

    Attributes:
      received: the number of the signal that this process got, or None.
      signal: the number of the one that all processes of the run have agreed on, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.signal: int | None = None

    def agreed(self) -> bool:
        """Whether any process of the run was asked to stop; all of them ask at the same point, and get the same.

        A signal that comes while they tell one another counts when they ask again.
        """
        self.signal = hosts.highest(self.received or 0) or None
        return self.signal is not None


@contextlib.contextmanager
def stop_on_signal(grace: float = 0.0) -> Iterator[Stop]:
    """Lets a loop finish its step and save when it gets SIGINT (Ctrl-C) or SIGTERM; a second one stops at once.

    with stop_on_signal() as stop, Checkpoints(folder) as checkpoints:
        for step in ...:
            ...
            stopping = stop.agreed()
            if stopping or step % every == 0:
                checkpoints.save(...)
            if stopping:
                break

    Leaving the context puts the old handlers back and then raises, if a stop was requested, KeyboardInterrupt for
    SIGINT (exit status 130) and SystemExit(143) for SIGTERM. Signals reach the main thread only; in another, nothing
    changes.

    Args:
      grace: seconds after SIGTERM at which the process ends with status 143 wherever it is, so that whoever is about to
        kill it sees it go by itself; the last complete checkpoint stands. 0 waits for the step.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: object) -> None:
        if stop.received is not None:
            raise _stopped(number)
        stop.received = number
        # print() could be interrupted by itself here.
        os.write(2, b"\nstopping after this step; once more stops at once\n")

    previous = {number: signal.signal(number, handle) for number in _STOP_SIGNALS}
    try:
        with _leave_after(grace) if grace else contextlib.nullcontext():
            yield stop
        stop.agreed()  # a signal after the loop last asked stops every process too
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if signalled := stop.signal or stop.received:  # by itself where it came when nobody asks again: others may go on
        raise _stopped(signalled)


@contextlib.contextmanager
def _leave_after(grace: float) -> Iterator[None]:
    """Ends the process so many seconds after SIGTERM, unless the context is left before.

    A handler in Python waits until the running program returns, which may be minutes; what the interpreter writes into
    the wakeup descriptor, and a thread that reads it, do not.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    left = threading.Event()

    def watch() -> None:
        while number := os.read(reader, 1):
            if number[0] == signal.SIGTERM:
                if not left.wait(grace):
                    os.write(2, b"\nthe grace is over; the last complete checkpoint stands\n")
                    os._exit(128 + signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        left.set()
        os.close(writer)  # ends the watcher's read
        watcher.join()
        os.close(reader)


def _stopped(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` that rounds to bfloat16 wherever the program says so; `options` are those of `jax.jit`.

    By default XLA may keep a bfloat16 intermediate in float32 inside a fused kernel. What is fused depends on where a
    network is split, on the batch's shape and on whether a gradient is taken, so trunk-then-top would differ from the
    whole, a resumed run from one that was not killed, and PPO's first ratio from 1. With `xla_allow_excess_precision`
    off, and on CPU with matrix products fused with nothing else, none of them does.
    """
    compiler_options: dict[str, Any] = {"xla_allow_excess_precision": False}
    if sharding.device().platform == "cpu":
        compiler_options["xla_cpu_experimental_ynn_fusion_type"] = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    return jax.jit(function, compiler_options=compiler_options, **options)


class Step:
    """`(state, ...) -> (state, more)`, jitted by `jit_step`: one program for each structure and place of the state."""

    def __init__(self, program: Callable[..., Any]) -> None:
        self._program = program

    def _for(self, state: Any) -> Any:
        leaves, structure = jax.tree.flatten(state)
        return self._program(structure, *(leaf.sharding for leaf in leaves))

    def __call__(self, state: Any, *arguments: Any) -> tuple[Any, Any]:
        return self._for(state)(state, *arguments)

    def lower(self, state: Any, *arguments: Any) -> jax.stages.Lowered:
        """The program for such arguments, of which shapes and shardings are enough."""
        return self._for(state).lower(state, *arguments)


def jit_step(step: Callable[..., tuple[Any, Any]]) -> Step:
    """`(state, ...) -> (state, more)`, jitted: the state is donated, and its arrays come back to where they lay."""

    @functools.cache
    def program(structure: Any, *places: jax.sharding.Sharding) -> Callable[..., Any]:
        return jit(step, donate_argnums=0, out_shardings=(jax.tree.unflatten(structure, places), None))

    return Step(program)


def compile_count() -> int:
    """How many programs this process has compiled or read from the compilation cache since this module was imported.

    After warm-up the count must stand still.
    """
    return _compiled


def compile_seconds() -> float:
    """How long that took, without tracing."""
    return _compile_seconds


def _count_compilation(event: str, duration: float, **details: Any) -> None:
    global _compiled, _compile_seconds
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled += 1
        _compile_seconds += duration


jax.monitoring.register_event_duration_secs_listener(_count_compilation)


def memory_peak() -> dict[str, int]:
    """The most memory that was in use since the process began, in bytes.

    It is `device_memory_peak_bytes`, of the fullest device of this process, where devices tell; a CPU does not, and
    then it is `process_memory_peak_bytes`, what the process as a whole had resident.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return {"device_memory_peak_bytes": max(of["peak_bytes_in_use"] for of in stats)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"process_memory_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def cast(tree: Any, dtype: jnp.dtype) -> Any:
    """`tree` with its floating-point arrays in `dtype`; integers, booleans and keys stay."""

    def convert(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(convert, tree)


def count_parameters(tree: Any) -> int:
    """The number of values in a pytree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def default_dtype(name: str) -> jnp.dtype:
    """The dtype to compute in, from "float32", "bfloat16" or "auto".

    "auto" is bfloat16 where the hardware multiplies it fast (an accelerator, or a CPU with AMX or AVX512-BF16), else
    float32.

    Raises:
      UserError: another name.
    """
    if name == "auto":
        name = "bfloat16" if jax.default_backend() != "cpu" or _cpu_has_bfloat16() else "float32"
    if name not in ("float32", "bfloat16"):
        raise UserError(f"the dtype is {name!r}, expected 'auto', 'float32' or 'bfloat16'")
    return jnp.dtype(name)


def _cpu_has_bfloat16() -> bool:
    if not CPUINFO.exists():
        return False
    flags = next((line.split() for line in CPUINFO.read_text().splitlines() if line.startswith("flags")), [])
    return "amx_bf16" in flags or "avx512_bf16" in flags
