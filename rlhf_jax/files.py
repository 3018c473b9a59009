"""Files and folders that are complete or not there, whenever the process is killed or the disk is full.

What is being written is in the folder `.partial` beside its place. The next run removes what a killed one left there.
Hidden names, that folder's among them, are no part of a result: they are neither read nor copied to a bucket.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf_jax.errors import UserError

PARTIAL = ".partial"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yields where to make a file or a folder, which takes the place of `path` when the block ends without an error.

    A file takes it in one step. A folder that is there goes first, and for a moment there is none.

    Raises:
      UserError: it cannot be written. What was there stays.
    """
    path = Path(path).resolve()
    home = path.parent / PARTIAL
    partial, before = home / path.name, home / f"{path.name}.before"
    with writing(path):
        home.mkdir(parents=True, exist_ok=True)
        remove(partial)
        try:
            yield partial
            if path.is_dir():
                remove(before)
                os.replace(path, before)
            os.replace(partial, path)
        finally:
            remove(partial)
            remove(before)
            with contextlib.suppress(OSError):  # it holds what others are writing
                home.rmdir()


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file whole. Raises UserError if it cannot be written."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def together(folder: Path, last: str, replaced: Iterable[str] = (), partial: Path | None = None) -> Iterator[Path]:
    """Yields where to make the files of one output, which take their places in `folder` when the block ends.

    Old and new ones are never there together.

    Args:
      folder: made if it is not there. What else is in it stays.
      last: the file that says that the output is complete: the old one goes first and the new one comes last.
      replaced: further files of the old output, which go.
      partial: where they are made, a folder in a `.partial`. By default in that of `folder`.

    Raises:
      UserError: one cannot be written. What was there stays.
    """
    partial = folder / PARTIAL / f"{last}.together" if partial is None else partial
    with writing(folder / last):
        remove(partial)
        partial.mkdir(parents=True)
        try:
            yield partial
            folder.mkdir(parents=True, exist_ok=True)
            for name in (last, *replaced):
                remove(folder / name)
            for path in sorted(partial.iterdir(), key=lambda path: path.name == last):
                remove(folder / path.name)
                os.replace(path, folder / path.name)
        finally:
            remove(partial)
            with contextlib.suppress(OSError):  # it holds what others are writing
                partial.parent.rmdir()


def write_together(folder: Path, texts: dict[str, str | None]) -> None:
    """Writes the text files of one output, as `together`. The last one says that it is complete.

    Args:
      folder: made if it is not there.
      texts: the files by name. None for one that this output does not have.

    Raises:
      UserError: one cannot be written. What was there stays.
    """
    with together(folder, list(texts)[-1], texts) as partial:
        for name, text in texts.items():
            if text is not None:
                (partial / name).write_text(text, encoding="utf-8")


def clean(folder: Path) -> None:
    """Removes what a killed run left half-written in a folder."""
    remove(folder / PARTIAL)


def remove(path: Path) -> None:
    """Removes a file or a folder that may not be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def visible(folder: Path) -> list[Path]:
    """The files at any depth of a folder that are part of a result, sorted: those without a hidden name."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises UserError where an error inside says that `path` cannot be written: which file, why and what is free."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not _is_full(error):
            raise
        raise _unwritten(path, error) from error


@contextlib.contextmanager
def room(path: Path) -> Iterator[None]:
    """Raises UserError where an error inside says that the disk of `path` is full, from any library."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise _unwritten(Path(getattr(error, "filename", None) or path), error) from error


def _is_full(error: Exception) -> bool:
    """True if an error says that a disk is full. Libraries not written in Python say so in words alone."""
    if isinstance(error, UserError):  # it has been said
        return False
    said = str(error).lower()
    return getattr(error, "errno", None) in _FULL or "no space left" in said or "disk is full" in said


def _unwritten(path: Path, error: Exception) -> UserError:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    free = f"; {shutil.disk_usage(there).free:,} bytes are free there: free some and run the same command again"
    return UserError(f"{path} cannot be written: {reason}{free if _is_full(error) else ''}")
