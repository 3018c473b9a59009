"""Our side of the benchmark still runs the programs that the stages run. On a small network, untimed."""

import dataclasses
import sys
from pathlib import Path

import jax
import pytest

from rlhf_jax.parallel import sharding

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = {"SFT_BATCH": 2, "SFT_LENGTH": 24, "SFT_RESPONSE": 8, "PPO_PROMPTS": 2, "PPO_PROMPT_LENGTH": 16}


@pytest.fixture
def jax_side(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # its scripts run as files and import each other so
    import jax_side

    sizes = {"vocabulary": 64, "width": 24, "layers": 3, "heads": 3, "kv_heads": 1, "head_dim": 8, "mlp_features": 32}
    monkeypatch.setattr(jax_side, "ARCHITECTURE", dataclasses.replace(jax_side.ARCHITECTURE, **sizes))
    monkeypatch.setattr(jax_side, "PPO", dataclasses.replace(jax_side.PPO, max_new_tokens=4))
    for name, value in {**SMALL, "BON_SAMPLES": 2, "NEW_TOKENS": 4}.items():
        monkeypatch.setattr(jax_side.workloads, name, value)
    with sharding.use(jax_side.MESH):
        yield jax_side
    for name in ("jax_side", "workloads"):
        sys.modules.pop(name, None)


def test_sampling_runs_to_its_full_length(jax_side):
    """`bon_512` is `bon_128` with a longer prompt."""
    sampled = jax_side.make_step("bon_128", "float32")()
    assert sampled.sequences.prompt.shape == (1, 128)
    assert sampled.sequences.response_mask.shape == (1, 2, 4) and sampled.sequences.response_mask.all()


@pytest.mark.parametrize(("case", "trained"), [("sft_frozen", ["2"]), ("ppo", ["2"])])
def test_every_step_trains_the_top_once_more(jax_side, case, trained):
    step = jax_side.make_step(case, "float32")
    before, after = (jax.device_get(step()) for _ in range(2))
    assert (int(before.step), int(after.step)) == (1, 2)
    assert sorted(after.top["layers"]) == trained
    assert (before.top["norm"]["scale"] != after.top["norm"]["scale"]).any()
