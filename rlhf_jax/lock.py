"""One process at a time in a folder.

The lock is the operating system's (`flock`), so it goes with its owner, `kill -9` included. It holds among machines on
NFS and on other shared file systems that pass locks on. A bucket that is mounted does not: there it holds on one
machine, which is said.
"""

import contextlib
import fcntl
import functools
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from rlhf_jax import files
from rlhf_jax.errors import UserError

LOCK = ".lock"
MOUNTS = Path("/proc/self/mounts")


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Holds a folder, which is made if it is not there, for as long as the context or this process lasts.

    Args:
      folder: its file `.lock` names the owner while there is one.
      wait: whether to wait for another owner.

    Raises:
      UserError: another process holds it (its host, its process and since when), or the folder cannot be written.
    """
    descriptor = _open(folder, wait)
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        with files.writing(folder / LOCK):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()} since {since}".encode(), 0)
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)


def _open(folder: Path, wait: bool) -> int:
    """The descriptor of the folder's lock, held. The file of an owner that ends meanwhile goes, and is no lock."""
    while True:
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _hold(descriptor, folder, wait)
            if os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _hold(descriptor: int, folder: Path, wait: bool) -> None:
    kind = file_system(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace") or "a process that has just begun"
        raise UserError(f"{folder} is in use by {owner}; wait for its end, or choose another workdir") from None
    except OSError as error:
        _say(f"{kind} has no locks ({error.strerror}): start no second run in the same workdir")
    else:
        if kind.startswith("fuse"):
            _say(f"{kind} has locks among processes of one machine: start no run on another in the same workdir")


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on, as Linux names it: "ext4", "nfs4", "fuse.gcsfuse". "" elsewhere."""
    if not MOUNTS.exists():
        return ""
    mounts = [line.split()[1:3] for line in MOUNTS.read_text().splitlines()]
    inside = [(place, kind) for place, kind in mounts if folder.resolve().is_relative_to(place.replace("\\040", " "))]
    return max(reversed(inside), key=lambda mount: len(mount[0]), default=("", ""))[1]


@functools.cache
def _say(sentence: str) -> None:
    """Prints a sentence once."""
    print(sentence, flush=True)
