"""Folders of data in a bucket: written whole to it, and read by way of a copy on this machine.

An address is one of fsspec's, e.g. `gs://bucket/folder`. What a protocol needs beside fsspec (for `gs://` the package
gcsfs, `pip install rlhf_jax[gcs]`) is the user's to install. `MARK`, a folder's last file, says that it is complete.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from rlhf_jax.assets import cache_folder
from rlhf_jax.errors import UserError
from rlhf_jax.files import room, visible, whole
from rlhf_jax.lock import locked

MARK = "corpus.json"


def local(address: str) -> Path:
    """Returns a local path unchanged, and for a bucket's folder its copy in the user's cache, downloaded if needed.

    The copy is kept by what `MARK` says, so a folder that was written anew is copied anew.

    Raises:
      UserError: the address cannot be read, or there is no complete folder.
    """
    if "://" not in address:
        return Path(address)
    import fsspec

    with _told(address):
        remote, root = fsspec.url_to_fs(address)
        digest = hashlib.sha256(remote.cat_file(f"{root}/{MARK}")).hexdigest()
    copy = cache_folder("data") / digest[:16]
    with locked(copy.parent, wait=True):
        if not copy.exists():
            with whole(copy) as partial, _told(address), room(copy):
                remote.get(f"{root}/", f"{partial}/", recursive=True)
    return copy


def upload(folder: Path, address: str) -> None:
    """Copies a folder's files to a bucket, `MARK` last. Nothing where the bucket's `MARK` says that it has them.

    Raises:
      UserError: the address cannot be written.
    """
    import fsspec

    names = [path.relative_to(folder).as_posix() for path in visible(folder)]
    with _told(address):
        remote, root = fsspec.url_to_fs(address)
        if remote.exists(f"{root}/{MARK}"):
            if remote.cat_file(f"{root}/{MARK}") == (folder / MARK).read_bytes():
                return
            remote.rm_file(f"{root}/{MARK}")
        for name in sorted(names, key=lambda name: (name == MARK, name)):
            remote.put_file(str(folder / name), f"{root}/{name}")


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{address} has no {MARK}, expected a folder that `prepare` has written to its end.") from error
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"{address} cannot be reached ({' '.join(str(error).split())[:200]}).") from error
