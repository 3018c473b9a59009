"""Our side of the benchmark still runs the programs that the stages run; on a small network, untimed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = {"SFT_BATCH": 2, "SFT_LENGTH": 24, "SFT_RESPONSE": 8, "PPO_PROMPTS": 2, "PPO_PROMPT_LENGTH": 16}


@pytest.fixture
def jax_side(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # its scripts run as files and import each other so
    import jax_side

    sizes = {"vocabulary": 64, "width": 24, "layers": 5, "heads": 3, "kv_heads": 1, "head_dim": 8, "mlp_features": 32}
    monkeypatch.setattr(jax_side, "ARCHITECTURE", dataclasses.replace(jax_side.ARCHITECTURE, **sizes))
    monkeypatch.setattr(jax_side, "PPO", dataclasses.replace(jax_side.PPO, max_new_tokens=4))
    for name, value in {**SMALL, "BON_SAMPLES": 2, "NEW_TOKENS": 4}.items():
        monkeypatch.setattr(jax_side.workloads, name, value)
    yield jax_side
    for name in ("jax_side", "workloads"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("case", ["bon_128", "sft_frozen", "sft_full", "ppo"])
def test_a_step_runs_twice(jax_side, case):
    """`bon_512` is `bon_128` with a longer prompt."""
    step = jax_side.make_step(case, "float32")
    step()
    step()
