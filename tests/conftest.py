"""Every test runs with a cache folder of its own session and the same random state."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest

# Before any test module imports a library that reads it.
_cache = tempfile.TemporaryDirectory(prefix="rlhf_jax-tests-")
os.environ["XDG_CACHE_HOME"] = _cache.name


# Begun first, so that no process is left with one of these when the others have nothing more to do.
LONG = ("tests/parallel/test_meshes.py", "tests/test_study.py", "tests/models/test_scan.py", "tests/stages/test_ppo.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take long come first; the order within a file stays."""
    assert all(Path(__file__).parents[1].joinpath(name).is_file() for name in LONG)
    items.sort(key=lambda item: item.location[0] not in LONG)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `mesh_study.py` on one device."""
    from tests.devices import study

    return study(tmp_path_factory.mktemp("study"), "1,1,1", devices=1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
