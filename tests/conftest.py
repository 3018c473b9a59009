"""Every test runs with a cache folder of its own session and the same random state."""

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# One cache per session, for its workers and the processes that tests start: equal programs are compiled once, and with
# few optimisations, except by tests that are marked `optimised`. All is set before any test module imports a library
# that reads it. A worker inherits the variables of the session that starts it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="rlhf_jax-tests-")
    os.environ["XDG_CACHE_HOME"] = _cache.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_cache.name}/rlhf_jax/xla"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"

from hypothesis import settings  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Hypothesis draws the same examples everywhere. It would do so only where CI is set.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")

# Shapes and dtypes in these modules' annotations are checked at every call.
CHECKED = (
    "models.layers",
    "models.logprobs",
    "rl.advantages",
    "rl.kl_penalty",
    "rl.masked",
    "rl.rewards",
    "training.losses",
)
install_import_hook([f"rlhf_jax.{name}" for name in CHECKED], "beartype.beartype")

# Begun first, so that no process is left with one of these when the others have nothing more to do.
LONG = ("tests/test_study.py", "tests/models/test_split.py", "tests/models/test_scan.py", "tests/stages/test_ppo.py")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: some wait for processes that they started. Each takes 1.5 GB."""
    return min(os.cpu_count() or 1, 4) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take long come first. The order within a file stays."""
    assert all(Path(__file__).parents[1].joinpath(name).is_file() for name in LONG)
    items.sort(key=lambda item: item.location[0] not in LONG)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `mesh_study.py` on one device."""
    from tests.devices import study

    return study(tmp_path_factory.mktemp("study"), "1,1,1", devices=1)


@pytest.fixture(autouse=True)
def _optimised(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests marked `optimised` compare bits of different programs, as the compiler makes them for users.

    Other tests must not meet the programs of this one, nor it theirs: a run in another process has neither.
    """
    if request.node.get_closest_marker("optimised") is None:
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
