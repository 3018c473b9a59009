"""Every test runs with a cache folder of its own session and the same random state."""

from __future__ import annotations

import os
import random
import tempfile

import numpy as np
import pytest

# Before any test module imports a library that reads it.
_cache = tempfile.TemporaryDirectory(prefix="rlhf_jax-tests-")
os.environ["XDG_CACHE_HOME"] = _cache.name


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
