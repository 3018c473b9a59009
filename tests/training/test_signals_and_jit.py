"""Signals end a step and not the run's work. Jit keeps bfloat16 rounding. Counters count."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.parallel import devices, hosts
from rlhf_jax.parallel.devices import default_dtype, memory_peak
from rlhf_jax.parallel.jit import compile_count, jit
from rlhf_jax.training.signals import stop_on_signal


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_lets_the_step_finish(number: int, expected: type[BaseException]) -> None:
    before = signal.getsignal(number)
    done = []
    with pytest.raises(expected) as error, stop_on_signal() as stop:
        for step in range(10):
            if step == 3:
                os.kill(os.getpid(), number)
            done.append(step)
            if stop.agreed():
                break
    assert done == [0, 1, 2, 3]
    assert stop.signal == number
    assert signal.getsignal(number) is before
    if expected is SystemExit:
        assert error.value.code == 143


def test_a_signal_while_the_hosts_agree_counts_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others were told of none then, so this one goes on with them."""

    def interrupted(number: int) -> int:
        if not answers:
            os.kill(os.getpid(), signal.SIGTERM)
        answers.append(number)
        return number

    answers: list[int] = []
    monkeypatch.setattr(hosts, "highest", interrupted)
    with pytest.raises(SystemExit), stop_on_signal() as stop:
        assert [stop.agreed(), stop.agreed()] == [False, True]
    assert answers[:2] == [0, signal.SIGTERM]


def test_an_error_in_the_loop_is_not_replaced() -> None:
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it
    with pytest.raises(ZeroDivisionError), stop_on_signal():
        os.kill(os.getpid(), signal.SIGINT)
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_the_second_signal_stops_at_once(number: int, status: int) -> None:
    program = textwrap.dedent(
        """
        import os, sys
        from rlhf_jax.training.signals import stop_on_signal
        with stop_on_signal():
            for _ in range(2):
                os.kill(os.getpid(), int(sys.argv[1]))
            print("not reached")
        """
    )
    command = [sys.executable, "-c", program, str(int(number))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == status
    assert "not reached" not in result.stdout
    assert "stopping after this step" in result.stderr


LONG_STEP = """
import os, sys, threading, time
import jax, jax.numpy as jnp
from rlhf_jax.training.signals import stop_on_signal
seconds, grace = map(float, sys.argv[1:])
step = jax.jit(lambda x: jax.lax.fori_loop(0, 10**9, lambda i, x: jnp.tanh(x @ x), x)) if seconds > 60 else time.sleep
with stop_on_signal(grace) as stop:
    threading.Timer(0.5, lambda: os.kill(os.getpid(), 15)).start()
    print(step(jnp.ones((200, 200)) if seconds > 60 else seconds))
    assert stop.agreed()
    print("saved")
print("not reached")
"""


@pytest.mark.parametrize(("seconds", "grace", "saved"), [(1e6, 0.2, False), (1.0, 60.0, True)])
def test_sigterm_ends_a_step_that_outlasts_the_grace(seconds: float, grace: float, saved: bool) -> None:
    """A compiled program of hours in the main thread, where no handler in Python runs. And a step that is short."""
    command = [sys.executable, "-c", LONG_STEP, str(seconds), str(grace)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert result.returncode == 143, result.stderr
    assert ("saved" in result.stdout) == saved
    assert ("the grace is over; the last complete checkpoint stands" in result.stderr) != saved
    assert "not reached" not in result.stdout


def test_a_grace_without_a_signal_leaves_nothing_behind() -> None:
    threads, files = threading.active_count(), len(os.listdir("/dev/fd"))
    with stop_on_signal(grace=0.01) as stop:
        assert not stop.agreed()
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == (threads, files)
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.optimised
def test_a_network_may_be_cut_anywhere_in_bfloat16() -> None:
    """With `jax.jit` in place of `run.jit` about half of the values differ on a CPU."""

    def block(x: jax.Array, w: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normed = (wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-5)).astype(x.dtype)
        return x + (jax.nn.silu(normed @ w) * (normed @ w.T)) @ w

    x, w = (jax.random.normal(jax.random.key(seed), (64, 64)).astype(jnp.bfloat16) for seed in range(2))
    whole = jit(lambda x, w: block(block(x, w), w))(x, w)
    first_then_second = jit(block)(jit(block)(x, w), w)
    np.testing.assert_array_equal(np.asarray(whole, np.float32), np.asarray(first_then_second, np.float32))


def test_compilations_are_counted() -> None:
    function = jit(lambda x: x * 3 + 1)
    small, large = jnp.ones(3), jnp.ones(5)
    start = compile_count()
    function(small)
    assert compile_count() == start + 1
    function(small)
    assert compile_count() == start + 1
    function(large)
    assert compile_count() == start + 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu sse avx512f avx512_bf16", "bfloat16"),
        ("flags\t\t: fpu amx_bf16 amx_tile", "bfloat16"),
        ("flags\t\t: fpu avx2", "float32"),
        ("", "float32"),
    ],
)
def test_auto_follows_the_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, expected: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{flags}\nbugs\t: avx512_bf16\n")
    monkeypatch.setattr(devices, "CPUINFO", cpuinfo)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert default_dtype("auto") == jnp.dtype(expected)
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "none")
    assert default_dtype("auto") == jnp.float32
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert default_dtype("auto") == jnp.bfloat16


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_the_peak_of_memory_is_at_least_what_is_resident_and_less_than_there_is() -> None:
    """Linux counts both by thread and adds them up now and then, so they may differ a little."""
    page = os.sysconf("SC_PAGE_SIZE")
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
    assert set(memory_peak()) == {"process_memory_peak_bytes"}
    assert 0.9 * resident <= memory_peak()["process_memory_peak_bytes"] <= os.sysconf("SC_PHYS_PAGES") * page
