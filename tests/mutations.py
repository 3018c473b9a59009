"""Breaks one guarded line at a time in a copy of the project and runs the tests that guard it.

    python -m tests.mutations

Each mutation of `mutations.toml` is a mistake that published code has made, or that would be natural to make. The table
of which test caught which goes into `tests/mutations.md`. A mutation that no test catches is an error.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("rlhf_jax", "tests", "configs", "benchmarks", "pyproject.toml")


class Mutation(NamedTuple):
    """One guarded line (or a part of it), what it becomes, and the tests that are to fail then.

    Attributes:
      mistake: in words.
      path: of the file, below `rlhf_jax`.
      before: text that occurs once in it.
      after: what stands there instead.
      tests: arguments of pytest.
    """

    mistake: str
    path: str
    before: str
    after: str
    tests: str


MUTATIONS = [Mutation(**entry) for entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["mutation"]]


def broken_copy(mutation: Mutation, folder: Path) -> None:
    """The project in `folder`, with one line broken.

    Raises:
      ValueError: the text does not occur exactly once.
    """
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    path = folder / "rlhf_jax" / mutation.path
    text = path.read_text()
    if text.count(mutation.before) != 1:
        raise ValueError(
            f"{mutation.path} holds {mutation.before!r} {text.count(mutation.before)} times, expected once"
        )
    path.write_text(text.replace(mutation.before, mutation.after))


def caught_by(mutation: Mutation) -> str | None:
    """The test that fails, or None."""
    with tempfile.TemporaryDirectory(prefix="rlhf_jax-mutation-") as folder:
        broken_copy(mutation, Path(folder))
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *mutation.tests.split()]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    failed = re.search(r"^FAILED (\S+)", result.stdout, re.MULTILINE)
    if result.returncode == 1 and failed:
        return failed[1]
    if result.returncode != 0:
        raise RuntimeError(f"{mutation.mistake}: the tests did not run\n{result.stdout}\n{result.stderr}")
    return None


def table(caught: dict[Mutation, str | None]) -> str:
    """`tests/mutations.md`."""
    lines = [
        "# What the tests notice",
        "",
        "`make mutations` breaks one line at a time in a copy of the project and runs the tests that guard it "
        f"([mutations.py](mutations.py)). {sum(map(bool, caught.values()))} of {len(caught)} were caught.",
        "",
        "| the mistake | where | caught by |",
        "| --- | --- | --- |",
    ]
    for mutation, test in caught.items():
        name = f"`{test.partition('[')[0]}`" if test else "**nothing**"
        lines.append(f"| {mutation.mistake} | `{mutation.path}` | {name} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs all mutations, writes the table, and returns 1 if one was not caught."""
    caught: dict[Mutation, str | None] = {}
    for number, mutation in enumerate(MUTATIONS, start=1):
        caught[mutation] = caught_by(mutation)
        print(f"[{number}/{len(MUTATIONS)}] {mutation.mistake}: {caught[mutation] or 'NOT CAUGHT'}", flush=True)
    (ROOT / "tests" / "mutations.md").write_text(table(caught))
    return int(None in caught.values())


if __name__ == "__main__":
    sys.exit(main())
