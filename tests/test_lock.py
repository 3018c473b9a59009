"""One process at a time in a folder, whose lock goes with it."""

import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rlhf_jax import lock
from rlhf_jax.errors import UserError
from rlhf_jax.lock import LOCK, locked

HOLDS = """
import sys, time
from pathlib import Path
from rlhf_jax.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_names_its_owner_and_goes_with_it(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "held\n"
        message = (
            rf"{tmp_path} is in use by process {owner.pid} on {os.uname().nodename} since \d{{4}}-.* UTC; wait for"
        )
        with pytest.raises(UserError, match=message), locked(tmp_path):
            raise AssertionError
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    assert (tmp_path / LOCK).exists(), "a kill leaves the file, which is no lock"
    with locked(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} "), locked(tmp_path):
        raise AssertionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mounts", "error", "said"),
    [
        ("b / ext4 rw 0 0\nb TMP fuse.gcsfuse rw 0 0\n", None, "fuse.gcsfuse has locks among processes of one machine"),
        ("b / ext4 rw 0 0\nb TMP lustre rw 0 0\n", 38, "lustre has no locks (Function not implemented)"),
        ("b / fuse rw 0 0\nb TMP nfs4 rw 0 0\n", None, ""),
    ],
)
def test_where_locks_do_not_hold_is_said(tmp_path: Path, monkeypatch, capsys, mounts: str, error, said: str) -> None:
    (tmp_path / "mounts").write_text(mounts.replace("TMP", str(tmp_path.resolve())))
    monkeypatch.setattr(lock, "MOUNTS", tmp_path / "mounts")
    lock._say.cache_clear()
    if error is not None:

        def flock(*_: object) -> None:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(lock, "fcntl", types.SimpleNamespace(flock=flock, LOCK_EX=2, LOCK_NB=4))
    for _ in range(2):
        with locked(tmp_path / "run"):
            pass
    printed = capsys.readouterr().out
    assert printed.startswith(said) and printed.count("\n") == bool(said)
