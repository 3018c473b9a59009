"""Stop a run on SIGINT or SIGTERM after its step, on all hosts together."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from rlhf_jax.parallel import hosts

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Requests to stop the run.

    Attributes:
      received: the number of the signal that this process got, or None.
      signal: the number of the one that all processes of the run have agreed on, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.signal: int | None = None

    def agreed(self) -> bool:
        """True if any process of the run was asked to stop. All of them ask at the same point, and get the same.

        A signal that comes while they tell one another counts when they ask again.
        """
        self.signal = hosts.highest(self.received or 0) or None
        return self.signal is not None


@contextlib.contextmanager
def stop_on_signal(grace: float = 0.0) -> Iterator[Stop]:
    """Lets a loop finish its step and save when it gets SIGINT (Ctrl-C) or SIGTERM. A second one stops at once.

    with stop_on_signal() as stop, Checkpoints(folder) as checkpoints:
        for step in ...:
            ...
            stopping = stop.agreed()
            if stopping or step % every == 0:
                checkpoints.save(...)
            if stopping:
                break

    Leaving the context puts the old handlers back and then raises, if a stop was requested, KeyboardInterrupt for
    SIGINT (exit status 130) and SystemExit(143) for SIGTERM. Signals reach the main thread only. In another, nothing
    changes.

    Args:
      grace: seconds after SIGTERM at which the process ends with status 143 wherever it is, so that whoever is about to
        kill it sees it go by itself. The last complete checkpoint stands. 0 waits for the step.
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

    A handler in Python waits until the running program returns, which may be minutes. What the interpreter writes into
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
