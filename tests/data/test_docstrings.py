import random
import sys
import textwrap
from collections import defaultdict

import pytest

from rlhf_jax.data import docstrings, records
from rlhf_jax.data.formats import source_text


def words(seed: int, count: int = 90) -> str:
    """Text that no other seed gives."""
    chosen = random.Random(seed)
    return " ".join("".join(chosen.choices("abcdefghij", k=6)) for _ in range(count)) + "."


class Installed:
    """A folder that takes the place of site-packages on the import path."""

    def __init__(self, folder):
        self.folder = folder

    def module(self, path: str, source: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Installed:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(docstrings, "STANDARD_LIBRARY", ())
    monkeypatch.setattr(docstrings, "PACKAGES", ("alpha",))
    others = [path for path in sys.path if "site-packages" not in path]
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *others])
    return Installed(tmp_path / "site")


def documented(name: str, summary: str, text: str) -> str:
    return f'def {name}():\n    """{summary}\n\n    {text}\n    """\n'


def test_every_definition_is_read_and_nothing_is_imported(installed):
    body = documented("run", "Runs the function on all rows.", words(2))
    method = "class Model:\n" + textwrap.indent(body, "    ")
    inner = documented("inner", "Runs under a condition of some sort.", words(3))
    guarded = "if True:\n" + textwrap.indent(inner, "    ")
    installed.module("alpha/__init__.py", f'"""A package with a docstring.\n\n{words(1)}\n"""\nraise RuntimeError\n')
    installed.module("alpha/part.py", method + guarded)
    installed.module("alpha/tests/test_part.py", documented("test", "Tests that it does run.", words(4)))
    installed.module("alpha/broken.py", "this is not Python")
    corpus = docstrings.load()
    assert {example.id: example.response for example in corpus.examples} == {
        "alpha/alpha": "A package with a docstring.",
        "alpha/alpha.part.Model.run": "Runs the function on all rows.",
        "alpha/alpha.part.inner": "Runs under a condition of some sort.",
    }
    assert corpus.examples[0].prompt.startswith("PACKAGE: alpha\nNAME: alpha\nTEXT: ")
    assert "alpha" not in sys.modules


@pytest.mark.parametrize(
    ("summary", "kept"),
    [
        ("Sorts the rows of it.", True),
        ("Sorts the rows.", False),  # three words
        ("Sorts a b c.", False),  # 12 characters
        (f"Sorts the rows {'and ' * 46}.", True),  # 200 characters
        (f"Sorts the rows {'and ' * 47}.", False),
        ("Deprecated function that sorts the rows.", False),
        ("Sorts the rows as follows:", False),
        ("Sorts all rows, see https://rows.org.", False),
    ],
)
def test_what_makes_a_summary(installed, summary, kept):
    installed.module("alpha.py", documented("sort", summary, words(1)))
    responses = [example.response for example in docstrings.load().examples]
    assert responses == ([" ".join(summary.replace(" .", ".").split())] if kept else [])


def test_the_standard_library_is_split_by_module_and_no_text_is_in_two_splits(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    packages = ("asyncio", "email", "logging", "http", "unittest", "importlib")
    corpus = docstrings.load(packages)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert records.fingerprint(docstrings.load(packages).examples) == records.fingerprint(corpus.examples)

    found = [example for example in corpus.examples if example.split != "ood_test"]
    assert len(found) > 80
    assert {example.id.partition("/")[0] for example in found} == set(packages)
    assert len({example.prompt for example in found}) == len(found)
    assert len({example.response.lower() for example in found}) == len(found)
    splits = defaultdict(set)
    for example in found:
        splits[next(name for name in modules(packages) if f"{example.id}.".startswith(name))].add(example.split)
        assert 20 <= len(example.response) <= 200 and 250 < len(source_text(example.prompt)) <= 700
    assert all(len(names) == 1 for names in splits.values())
    assert {split for names in splits.values() for split in names} == {"train", "validation", "id_test"}


def modules(packages: tuple[str, ...]) -> list[str]:
    """The prefixes of ids by module, the longest first."""
    names = [f"{package}/{name}." for package in packages for name, _ in docstrings._files(package)]
    return sorted(names, key=len, reverse=True)
