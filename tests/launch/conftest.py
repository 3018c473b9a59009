"""What is launched from, for all tests of the launch scripts."""

import sys
from pathlib import Path

import pytest

from tests.launch.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine on which nothing that could cost anything does anything."""
    made = Machine(tmp_path)
    for name in ("gcloud", "xpk", "kubectl", "docker", "sky", "sbatch", "srun", "scontrol", "git", "python"):
        made.provide(name)
    return made


@pytest.fixture
def linux() -> None:
    """Skips the test elsewhere: a worker's own commands are those of Linux."""
    if sys.platform != "linux":
        pytest.skip("runs what a worker runs, which is Linux")
