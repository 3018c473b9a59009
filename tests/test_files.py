"""What is written is complete or not there, when the process is killed at any system call and when the disk is full."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlhf_jax import files
from rlhf_jax.errors import UserError


def tree(folder: Path) -> dict[str, str]:
    """The text of every file that is no leftover."""
    found = (path for path in folder.rglob("*") if path.is_file() and files.PARTIAL not in path.parts)
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def write_folder(folder: Path, text: str) -> None:
    with files.whole(folder / "model") as partial:
        partial.mkdir()
        for name in ("config", "first", "second"):
            (partial / name).write_text(text)


def write_file(folder: Path, text: str) -> None:
    files.write_text(folder / "file", text)


def write_several(folder: Path, text: str) -> None:
    files.write_together(folder, {"a": text, "b": text if text == "old" else None, "last": text})


EXPECTED = {
    write_folder: lambda text: {f"model/{name}": text for name in ("config", "first", "second")},
    write_file: lambda text: {"file": text},
    write_several: lambda text: {"a": text, "last": text} | ({"b": text} if text == "old" else {}),
}
CALLS = ("mkdir", "open", "rename", "replace", "unlink", "rmdir")


class Killed(BaseException):
    """What no code catches, as a kill."""


def killed_at(number: int, action: Callable[[], None]) -> bool:
    """Runs an action and ends it before its call of that number that changes a file system. False if it has fewer."""
    left = number
    with pytest.MonkeyPatch.context() as patch:

        def stop_before(call: Callable) -> Callable:
            def counted(*arguments: object, **named: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed  # and nothing after it is done either
                return call(*arguments, **named)

            return counted

        for name in CALLS:
            patch.setattr(os, name, stop_before(getattr(os, name)))
        try:
            action()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("write", EXPECTED, ids=lambda write: write.__name__)
def test_a_kill_leaves_the_old_output_the_new_one_or_none(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    old, new = (EXPECTED[write](text) for text in ("old", "new"))
    last = list(new)[-1]
    for number in range(100):
        folder = tmp_path / str(number)
        write(folder, "old")
        if not killed_at(number, lambda folder=folder: write(folder, "new")):
            break
        found = tree(folder)
        assert len(set(found.values())) <= 1, "never old and new together"
        assert found in (old, new) or last not in found
        files.clean(folder)
        write(folder, "new")
        assert tree(folder) == new
        assert not (folder / files.PARTIAL).exists()
    assert 5 < number < 99


def test_leftovers_of_any_process_are_written_over(tmp_path: Path) -> None:
    """In a container every process may be number 1. Its name is in no path."""
    (tmp_path / files.PARTIAL / "model" / "deep").mkdir(parents=True)
    (tmp_path / files.PARTIAL / "file").mkdir()
    write_folder(tmp_path, "new")
    write_file(tmp_path, "new")
    assert tree(tmp_path) == EXPECTED[write_folder]("new") | EXPECTED[write_file]("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_folder(tmp_path, "old")
    with pytest.raises(ZeroDivisionError), files.whole(tmp_path / "model") as partial:
        partial.mkdir()
        raise ZeroDivisionError
    assert tree(tmp_path) == EXPECTED[write_folder]("old")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_hidden_files_are_no_part_of_a_result(tmp_path: Path) -> None:
    for name in ("b/shard", "a", ".lock", ".partial/tokens/shard", "b/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in files.visible(tmp_path)] == ["a", "b/shard"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of at most a kilobyte, as the system's limit for this process: a disk that is full, without a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", EXPECTED, ids=lambda write: write.__name__)
def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(
    tmp_path: Path, write: Callable[[Path, str], None], small_files: None
) -> None:
    write(tmp_path, "old")
    with pytest.raises(UserError) as error:
        write(tmp_path, "new" * 1000)
    said = str(error.value)
    assert said.startswith(f"{tmp_path}/") and " cannot be written: File too large; " in said
    assert said.endswith("bytes are free there: free some and run the same command again")
    assert tree(tmp_path) == EXPECTED[write]("old")
    assert not (tmp_path / files.PARTIAL).exists()


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("I/O: No space left on device (os error 28)")],
    ids=["python", "library"],
)
def test_a_full_disk_is_a_sentence_whoever_says_it(tmp_path: Path, error: Exception) -> None:
    for context in (files.writing, files.room):
        message = f"{tmp_path} cannot be written: .*[Nn]o space left.*bytes are free there"
        with pytest.raises(UserError, match=message), context(tmp_path):
            raise error
    with pytest.raises(FileNotFoundError), files.room(tmp_path):
        (tmp_path / "none").read_text()
