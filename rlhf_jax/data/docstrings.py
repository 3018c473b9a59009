"""The offline corpus: bodies of docstrings with their summary lines, and READMEs as the test out of distribution.

Everything is read with `ast` and `importlib.metadata` from what is installed beside the project. Nothing is imported or
downloaded. For given installed versions the corpus is the same, record for record.
"""

import ast
import hashlib
import os
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from rlhf_jax.data import formats, prose, records
from rlhf_jax.data.records import Example
from rlhf_jax.data.texts import is_unicode
from rlhf_jax.errors import UserError

# The project's dependencies, direct or not, that are written with docstrings, by import name: a tool that happens to be
# installed beside them does not change the corpus.
PACKAGES = (
    "PIL", "absl", "anyio", "attr", "click", "datasets", "dill", "etils", "flax", "fontTools", "fsspec", "gguf",
    "grain", "huggingface_hub", "jax", "jinja2", "joblib", "matplotlib", "ml_collections", "narwhals", "nltk",
    "numpy", "openai", "optax", "orbax", "pandas", "psutil", "pyarrow", "pydantic", "regex", "requests", "rich",
    "rouge_score", "safetensors", "scipy", "sentencepiece", "sklearn", "tensorboardX", "tensorflow_datasets",
    "tensorstore", "tokenizers", "tqdm", "transformers", "treescope", "typer", "urllib3",
)  # fmt: skip
# Parts of the standard library that are no library, or that some distributions of Python leave out.
_NOT_SCANNED = {"antigravity", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "this", "tkinter", "turtledemo"}
STANDARD_LIBRARY = tuple(
    sorted(name for name in sys.stdlib_module_names if not name.startswith("_") and name not in _NOT_SCANNED)
)
# Tests, and copies of other projects.
_SKIPPED_FOLDERS = {"tests", "test", "_vendor", "vendor", "externals", "_external", "idle_test"}

_SPLITS = ("train",) * 8 + ("validation", "id_test")  # each a tenth of the modules

_SUMMARY_CHARACTERS = range(20, 201)
_MIN_SUMMARY_WORDS = 4
_MIN_TEXT_CHARACTERS = 300
# Titles, signatures, the head of a list, and lines that say nothing about what they document.
_NO_SUMMARY = re.compile(
    r"deprecated|copyright|licen[cs]e|all rights reserved|https?://|[=~*^-]{3}|>>>|->|:$|^[^\w\"'`(\[*:]"
    r"|^(see|todo|note|warning|usage|examples?|same as|alias)\b",
    re.IGNORECASE,
)
_LICENCE = re.compile(
    r"permission is hereby|without warrant|redistribution and use|all rights reserved|licensed under", re.IGNORECASE
)

_RUN = 8  # words
_MAX_SHARED = 0.3

_EXTRA = re.compile(r";.*\bextra\b")


@dataclass(frozen=True)
class Corpus:
    """The examples of all four splits, the versions they were read from and the default packages not found."""

    examples: list[Example]
    versions: dict[str, str]
    missing: tuple[str, ...]


def load(packages: tuple[str, ...] = (), max_text: int = 700) -> Corpus:
    """Reads the corpus, from a cache in the user's cache folder where the same versions were read before.

    Docstrings go to `train`, `validation` and `id_test` by a hash of their module's name, so a module is in one split
    only. READMEs are `ood_test`. They are those of the distributions of `PACKAGES` and of all that these require,
    whatever `packages` says. A record is left out if it has the summary, or 30 % of the runs of eight words, of earlier
    ones. READMEs come first, then docstrings by name.

    Args:
      packages: import names to read docstrings of, all of which must be there. Empty for `PACKAGES` and the standard
        library, less what is not installed.
      max_text: characters a text is cut to, at a word's end.

    Raises:
      UserError: one of the packages named is not installed, or `max_text` is below 300, the least that a text has.
    """
    if max_text < _MIN_TEXT_CHARACTERS:
        raise UserError(f"max_text is {max_text}, expected at least {_MIN_TEXT_CHARACTERS}, the least that a text has.")
    roots = {name: _files(name) for name in packages or PACKAGES + STANDARD_LIBRARY}
    if absent := [name for name in packages if not roots[name]]:
        raise UserError(
            f"The package {absent[0]!r} has no Python files here, expected an installed package's import name."
        )
    missing = tuple(name for name in PACKAGES if name in roots and not roots[name])
    owners = metadata.packages_distributions()
    readme_owners = _closure(owner for name in PACKAGES for owner in owners.get(name, ()))
    sources = sorted(set(readme_owners) | {owner for name in roots for owner in owners.get(name, ())})
    versions = {"python": platform.python_version()} | {source: metadata.version(source) for source in sources}

    cached = _cache_file(sorted(roots), versions, missing, max_text)
    if cached.exists():
        examples = records.read(cached, Example)
    else:
        readmes = (readme for owner in readme_owners for readme in _readme(owner, max_text))
        docstrings = (found for name in sorted(roots) for found in _docstrings(name, roots[name], max_text))
        examples = list(_distinct([*readmes, *sorted(docstrings, key=lambda example: example.id)]))
        records.write(cached, examples)
    return Corpus(examples, versions, missing)


def _files(name: str) -> list[tuple[str, Path]]:
    """The modules of a top-level package, as dotted name and file, found without importing it."""
    path = [sysconfig.get_path("stdlib")] if name in sys.stdlib_module_names else None
    spec = PathFinder.find_spec(name, path)
    if spec is None:
        return []
    if not spec.submodule_search_locations:
        return [(name, Path(spec.origin))] if spec.origin and spec.origin.endswith(".py") else []
    modules = []
    for root in map(Path, spec.submodule_search_locations):
        for file in root.rglob("*.py"):
            parts = (name, *file.relative_to(root).with_suffix("").parts)
            if _SKIPPED_FOLDERS.isdisjoint(parts) and not parts[-1].startswith("test_"):
                modules.append((".".join(parts).removesuffix(".__init__"), file))
    return sorted(modules)


def _closure(distributions: Iterable[str]) -> list[str]:
    """The distributions and all that they require, extras aside, as far as they are installed. Sorted by name."""
    found: dict[str, str] = {}
    waiting = list(distributions)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution.metadata["Name"]
        requirements = [line for line in distribution.requires or () if not _EXTRA.search(line)]
        waiting += [re.match(r"[\w.-]+", requirement).group() for requirement in requirements]
    return [found[name] for name in sorted(found)]


def _cache_file(roots: list[str], versions: dict[str, str], missing: tuple[str, ...], max_text: int) -> Path:
    code = "".join(Path(module.__file__).read_text("utf-8") for module in (formats, prose, records))
    code += Path(__file__).read_text("utf-8")
    key = hashlib.sha256(repr((roots, sorted(versions.items()), missing, max_text, code)).encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "rlhf_jax" / f"docstrings-{key[:16]}.jsonl"


def _readme(distribution: str, max_text: int) -> Iterator[Example]:
    """The long description of a distribution and its summary, if both read as such."""
    fields = metadata.metadata(distribution)
    body = fields.get_payload() or fields.get("Description", "")
    yield from _example(distribution, "README", "ood_test", fields.get("Summary", ""), body, max_text)


def _docstrings(package: str, modules: list[tuple[str, Path]], max_text: int) -> Iterator[Example]:
    """Every docstring of a package that has a summary and a long enough text."""
    for module, file in modules:
        split = _split(module)
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(file.read_bytes())
        except SyntaxError:  # a template, or code for another version of Python
            continue
        for name, node in _definitions(tree, module):
            docstring = ast.get_docstring(node)
            if docstring and "\n\n" in docstring:
                summary, body = docstring.split("\n\n", 1)
                yield from _example(package, name, split, summary, body, max_text)


def _definitions(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    """A module with every class and function in it, each with its dotted name, from the top."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, (ast.Module, *kinds)):
        yield name, node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _definitions(child, f"{name}.{child.name}" if isinstance(child, kinds) else name)


def _split(module: str) -> str:
    return _SPLITS[int.from_bytes(hashlib.sha256(module.encode()).digest()) % len(_SPLITS)]


def _example(package: str, name: str, split: str, summary: str, body: str, max_text: int) -> Iterator[Example]:
    """One example, or none where the summary or the text is not one."""
    if _NO_SUMMARY.search(summary.strip()) or not is_unicode(summary + body):
        return
    summary = prose.plain(summary)
    if len(summary.split()) < _MIN_SUMMARY_WORDS or len(summary) not in _SUMMARY_CHARACTERS:
        return
    # A README often opens with its summary, which would make copying the answer.
    text = prose.prose(body).removeprefix(f"{summary.rstrip('.')}. ")
    if len(text) < _MIN_TEXT_CHARACTERS or _LICENCE.search(text):
        return
    if len(text) > max_text:
        text = text[: max_text + 1].rsplit(" ", 1)[0]
    yield Example(f"{package}/{name}", split, formats.docstring_prompt(package, name, text), summary)


def _distinct(examples: Iterable[Example]) -> Iterator[Example]:
    """Leaves out what repeats the id, the summary or much of the text of an earlier record.

    Copied documentation rarely is an exact copy: a name or a number differs, so runs of words are compared.
    """
    ids: set[str] = set()
    summaries: set[str] = set()
    runs: set[str] = set()
    for example in examples:
        summary = " ".join(_words(example.response))
        words = _words(formats.source_text(example.prompt))
        own = {" ".join(words[start : start + _RUN]) for start in range(max(len(words) - _RUN + 1, 1))}
        if example.id in ids or summary in summaries or len(own & runs) > _MAX_SHARED * len(own):
            continue
        ids.add(example.id)
        summaries.add(summary)
        runs |= own
        yield example


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
