"""Every family and preset feature against what transformers computed: `tests/golden/oracle`, by `make_references.py`.

python tests/oracle/make_references.py tests/golden/oracle      (with torch and transformers, to make them anew)
"""

from pathlib import Path

import numpy as np
import pytest

from tests.oracle import comparison
from tests.oracle.cases import CASES

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "oracle"


# These differ from others in sizes and constants, not in code: here logits suffice, and `make oracle` does the rest.
BY_CONSTANTS = {"llama_gqa", "llama_head_dim", "llama_rope_linear", "llama_rope_dynamic", "tinyllama"}
by_code = pytest.mark.parametrize("reference", [name for name in CASES if name not in BY_CONSTANTS], indirect=True)


@pytest.fixture(scope="module", params=CASES)
def reference(request) -> comparison.Reference:
    return comparison.read(GOLDEN / request.param)


def test_logits(reference):
    """Invariant 3: whatever the padding side, with holes in the mask, and past one chunk of attention."""
    errors = comparison.logits_errors(reference)
    assert {batch: error for batch, error in errors.items() if error > comparison.MAX_ERROR} == {}


@by_code
def test_states_and_scores(reference):
    """What the heads of all roles read, over responses that share a prompt, and a reward model's raw score."""
    states, scores = comparison.states_and_scores_error(reference)
    assert max(states, scores) <= comparison.MAX_ERROR


@by_code
def test_gradients(reference):
    errors = comparison.gradient_errors(reference)
    assert {name: error for name, error in errors.items() if error > comparison.MAX_GRADIENT_ERROR} == {}


@by_code
def test_greedy_continuation(reference):
    """Invariant 2 too: with a cache, two prompts of different length at once."""
    np.testing.assert_array_equal(comparison.greedy_continuation(reference), reference.expected["greedy/continuation"])


def test_there_and_back(reference, tmp_path):
    """Invariant 15, bit by bit."""
    assert comparison.changed_by_a_round_trip(reference, tmp_path) == []


def test_goldens_are_small_and_of_these_cases():
    assert {folder.name for folder in GOLDEN.iterdir()} == set(CASES)
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file()) < 2_000_000
