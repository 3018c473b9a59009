"""Folders in a bucket: fsspec's own file system in memory stands for one."""

import hashlib

import fsspec
import pytest

from rlhf_jax.data import remote
from rlhf_jax.errors import UserError

ADDRESS = "memory://bucket/tldr"


@pytest.fixture(autouse=True)
def bucket(tmp_path, monkeypatch):
    """An empty bucket and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    return files


def make(folder, text: str):
    (folder / "tokens").mkdir(parents=True)
    (folder / "examples.jsonl").write_text(text)
    (folder / "tokens" / "shard").write_bytes(b"\0" + text.encode())
    (folder / "corpus.json").write_text(f"made of {text}")
    return folder


def content(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_uploaded_is_read_again(tmp_path):
    folder = make(tmp_path / "first", "posts")
    remote.upload(folder, ADDRESS)
    copy = remote.local(ADDRESS)
    assert copy.is_relative_to(tmp_path / "cache") and content(copy) == content(folder)


def test_what_a_killed_run_left_is_not_uploaded(tmp_path):
    folder = make(tmp_path / "first", "posts")
    whole = content(folder)
    for leftover in (".partial/tokens/shard", ".lock"):
        (folder / leftover).parent.mkdir(parents=True, exist_ok=True)
        (folder / leftover).touch()
    remote.upload(folder, ADDRESS)
    assert content(remote.local(ADDRESS)) == whole


def test_a_copy_that_was_cut_short_is_made_anew(tmp_path):
    folder = make(tmp_path / "first", "posts")
    remote.upload(folder, ADDRESS)
    digest = hashlib.sha256((folder / "corpus.json").read_bytes()).hexdigest()[:16]
    half = tmp_path / "cache" / "rlhf_jax" / "data" / ".partial" / digest
    half.mkdir(parents=True)
    (half / "other").touch()
    assert content(remote.local(ADDRESS)) == content(folder)
    assert [path.name for path in half.parents[1].iterdir()] == [digest]


def test_a_copy_is_kept_until_the_folder_is_another(tmp_path, bucket):
    remote.upload(make(tmp_path / "first", "posts"), ADDRESS)
    copy = remote.local(ADDRESS)
    bucket.rm_file("/bucket/tldr/tokens/shard")
    assert remote.local(ADDRESS) == copy
    second = make(tmp_path / "second", "news")
    remote.upload(second, ADDRESS)
    assert content(remote.local(ADDRESS)) == content(second)
    assert [path.name for path in (tmp_path / "cache" / "rlhf_jax" / "data").iterdir() if path.name[0] == "t"] == []


def test_a_folder_that_was_not_written_to_its_end_is_refused(tmp_path, bucket):
    remote.upload(make(tmp_path / "first", "posts"), ADDRESS)
    bucket.rm_file("/bucket/tldr/corpus.json")
    with pytest.raises(UserError, match=f"{ADDRESS} has no corpus.json, expected a folder that `prepare` has written"):
        remote.local(ADDRESS)
    remote.upload(tmp_path / "first", ADDRESS)
    assert remote.local(ADDRESS).is_dir()
