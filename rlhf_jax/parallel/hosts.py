"""Several processes as one run: they start together, compare facts and wait for one another.

Every process runs the same command on the same workdir. Process 0, the main one, prints and writes, but for
checkpoints, of which each process writes its shards. A process that fails or is killed ends the others. Each prints
why, and the same command goes on from the last complete checkpoint. With one process, everything here does nothing.
"""

import ctypes
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.errors import UserError

TIMEOUT = 300.0  # seconds that processes wait for one another where none of them works meanwhile
HEARTBEAT = 30  # seconds without a sign of life after which a process is gone
GONE = 134  # exit status after another process died, that of an abort
PROCESS = "JAX_PROCESS_ID"
ADDRESS = "JAX_COORDINATOR_ADDRESS"  # JAX reads this one itself
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "transformers", "tokenizers")


class _Process(NamedTuple):
    """This process among `count`. `client` is its connection to the others."""

    index: int = 0
    count: int = 1
    client: Any = None


_this = _Process()
_meetings = itertools.count()
_handlers: list[Any] = []  # a handler has to live as long as it may be called


def start(expected: int, facts: Mapping[str, Any]) -> None:
    """Joins a run of `expected` processes, before anything touches a device. A single process has nothing to join.

    TPU slices, SLURM and Open MPI tell JAX about the other processes. Elsewhere two variables do:
    JAX_COORDINATOR_ADDRESS, the host and a free port of process 0, and JAX_PROCESS_ID.

    Args:
      expected: number of processes.
      facts: values that must be equal on all of them, as in `agree`, beside their number and software.

    Raises:
      UserError: another number of processes, no information about them, a fact that differs, or a process that is not
        the first and was started with `--hosts=1`.
    """
    global _this
    if expected == 1:
        _require_first()
        return
    if expected < 1:
        raise UserError(f"--hosts is {expected}, expected 1 or more")
    import jax
    from jax._src import distributed  # what processes tell one another has no public call

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    _when_aborted(f"--hosts is {expected}, and not so many processes came together in {TIMEOUT:.0f} s")
    try:
        jax.distributed.initialize(
            **_told(expected), initialization_timeout=int(TIMEOUT), heartbeat_timeout_seconds=HEARTBEAT
        )
    except (RuntimeError, ValueError) as error:
        cause = str(error).partition("\n")[0]
        raise UserError(f"the {expected} processes that --hosts asks for cannot come together: {cause}") from error
    _when_aborted(
        "this process cannot go on, most likely because another one is gone (above is what is known of it); run the "
        "same command on every host to go on from the last complete checkpoint"
    )
    state = distributed.global_state
    if state.num_processes != expected:
        raise UserError(f"--hosts is {expected} and the cluster has {state.num_processes} processes")
    _this = _Process(state.process_id, expected, state.client)
    agree("the start", {"--hosts": expected, **facts, **software()})
    jax.devices()  # all processes make their backends together, also those that then wait while process 0 works


def _require_first() -> None:
    """Several processes that each thought itself alone would all write."""
    for name in (PROCESS, "SLURM_PROCID"):
        if (number := os.environ.get(name, "0")) != "0":
            raise UserError(
                f"--hosts is 1 and {name} is {number}, so others run beside it; "
                f"--hosts=N makes N of them one run, and without {name} each is one of its own"
            )


def _told(expected: int) -> dict[str, int]:
    """Settings of this process from the environment, for when no cluster informs JAX."""
    if PROCESS not in os.environ:
        return {}
    number = os.environ[PROCESS]
    if ADDRESS not in os.environ:
        raise UserError(f"{PROCESS} is {number} and {ADDRESS} is not set, expected host:port of process 0")
    if not number.isdigit() or int(number) >= expected:
        raise UserError(f"{PROCESS} is {number!r}, expected a number below {expected}, which is --hosts")
    return {"num_processes": expected, "process_id": int(number)}


def count() -> int:
    """Processes of this run."""
    return _this.count


def is_main() -> bool:
    """True for process 0, the only one that writes and prints."""
    return _this.index == 0


def exchange(name: str, text: str, timeout: float = TIMEOUT) -> list[str]:
    """Gathers one text per process, in their order. No call returns before all processes have called.

    Args:
      name: this point of the run, for messages. All processes come to the same points in the same order.
      text: the text of this process.
      timeout: seconds to wait for the last one.

    Raises:
      UserError: some processes did not come in time. They are named.
    """
    if _this.count == 1:
        return [text]
    place = f"rlhf_jax/{next(_meetings)} {name}/"
    _this.client.key_value_set(f"{place}{_this.index}", text)
    try:
        _this.client.wait_at_barrier(place, int(1000 * timeout))
    except RuntimeError as error:
        missing = ", ".join(str(i) for i in range(_this.count) if i not in _given(place))
        raise UserError(f"process {missing} of {_this.count} did not reach {name!r} in {timeout:.0f} s") from error
    return [text for _, text in sorted(_given(place).items())]


def _given(place: str) -> dict[int, str]:
    return {int(key.rpartition("/")[2]): text for key, text in _this.client.key_value_dir_get(place)}


def barrier(name: str, timeout: float = TIMEOUT) -> None:
    """Returns when every process is here. Raises as `exchange`."""
    exchange(name, "", timeout)


def agree(name: str, facts: Mapping[str, Any]) -> None:
    """Returns when every process has shown the same facts.

    Args:
      name: as in `exchange`.
      facts: JSON values by key. Sections may be nested, and messages name keys as `config.optimizer.epsilon`.

    Raises:
      UserError: a fact differs from that of process 0, raised in every process. Or as `exchange`.
    """
    if _this.count == 1:
        return
    first, *others = (_flat(json.loads(text)) for text in exchange(name, json.dumps(facts)))
    for index, other in enumerate(others, start=1):
        apart = [
            f"{key} is {first.get(key, 'absent')} on process 0 and {other.get(key, 'absent')} on process {index}"
            for key in {**first, **other}
            if first.get(key, "absent") != other.get(key, "absent")
        ]
        if apart:
            raise UserError(f"the hosts disagree: {'; '.join(apart)}")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The values, as JSON again, by their keys joined with dots."""
    flat: dict[str, str] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": json.dumps(value)}
    return flat


def software() -> dict[str, str]:
    """Versions that must be equal on every host: Python, this package's code (a digest) and its libraries."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"Python": platform.python_version(), **versions, "the code of rlhf_jax": digest.hexdigest()[:12]}


def highest(number: int) -> int:
    """Maximum of one number per process, computed on their devices. All call it at the same point of the run."""
    if _this.count == 1:
        return number
    import numpy as np
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.int32(number)).max())


def leave(status: int, patience: float = 5.0) -> int:
    """Exits with `status`: cleanly if every process failed, else by ending this process at once.

    The others notice the lost connection, or the missing `HEARTBEAT`. For up to `patience` seconds this process waits
    for the others, or for the runtime to end it because one of them is gone.
    """
    if _this.count > 1:
        deadline = time.monotonic() + patience
        try:
            # Not `barrier`, whose places are counted: those that fail may have been at different ones.
            _this.client.wait_at_barrier("rlhf_jax/the end after an error", int(1000 * patience))
        except RuntimeError:
            time.sleep(max(0.0, deadline - time.monotonic()))
            sys.stdout.flush()
            os._exit(status)
    return status


def _when_aborted(sentence: str) -> None:
    """Ends what JAX's runtime prints with this sentence, from now on, when it ends this process for another one's sake.

    It calls abort() in a thread of its own, while the main one may wait for ever in a collective, where no handler of
    Python's `signal` would run.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handle(number: int) -> None:
        os.write(2, f"\nerror: {sentence}\n".encode())
        os._exit(GONE)

    _handlers.append(handle)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handle)
