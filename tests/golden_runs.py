"""Golden runs: what short deterministic runs of the stages gave when they were last looked at.

A change that moves a number by more than rounding between CPUs fails until the files are written anew, on purpose:

    RLHF_JAX_WRITE_GOLDEN=1 python -m pytest -k golden_run
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "golden" / "runs"


def assert_golden(name: str, found: list[dict[str, Any]]) -> None:
    """Compares objects with those in `golden/runs/<name>.jsonl`: numbers to 1e-3 of themselves, all else exactly."""
    path = FOLDER / f"{name}.jsonl"
    if os.environ.get("RLHF_JAX_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(entry) + "\n" for entry in found))
    expected = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(found) == len(expected)
    for number, (ours, golden) in enumerate(zip(found, expected, strict=True), start=1):
        assert list(ours) == list(golden), f"{path.name}:{number}"
        for key, value in golden.items():
            numeric = isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float))
            wanted = pytest.approx(value, rel=1e-3, abs=1e-5) if numeric else value
            assert ours[key] == wanted, f"{path.name}:{number}: {key}"
