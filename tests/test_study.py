"""The tiny study from its config to its report, run once through the command line's own entry. What it leaves fits."""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from rlhf_jax.data.records import Samples, read
from rlhf_jax.main import main
from rlhf_jax.training.checkpoint import load_top
from rlhf_jax.training.load import load_base
from tests import tiny

ROOT = Path(__file__).parents[1]
MODEL_STAGES = ["sft", "sample_pairs", "preferences", "reward", "ppo", "sample_sft", "sample_ppo", "best_of_n"]
STAGES = ["prepare", "initialize", *MODEL_STAGES, "judge", "evaluate", "reward_vs_kl", "report"]


class Study(NamedTuple):
    """A finished study: its folder, its exit status and what it printed."""

    folder: Path
    status: int
    printed: str


def run(folder: Path, *arguments: str) -> Study:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), contextlib.chdir(ROOT):
        status = main(["main", "--config=configs/tiny.py", f"--workdir={folder}", *arguments])
    return Study(folder, status, output.getvalue())


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Iterator[Study]:
    before = dict(os.environ)
    yield run(tmp_path_factory.mktemp("tiny"))
    os.environ.clear()
    os.environ.update(before)


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def samples(study: Study, name: str) -> list[Samples]:
    return read(study.folder / name / "samples.jsonl", Samples)


def test_every_stage_runs_in_its_folder(study):
    assert study.status == 0, study.printed
    lines = study.printed.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines if line.startswith("[") and "/14]" in line] == STAGES
    assert lines[-1].startswith(f"all 14 stages are complete in {study.folder}")
    assert {path.name for path in study.folder.iterdir() if path.is_dir()} == set(STAGES)


def test_ppo_starts_at_ratio_one_and_divergence_zero(study):
    """Invariant 1, through every stage before it."""
    lines = tiny.logged(study.folder / "ppo")
    assert lines[0]["kl_k1"] == pytest.approx(0.0, abs=1e-6)
    assert lines[0]["kl_k3"] == pytest.approx(0.0, abs=1e-6)
    assert all(line["first_ratio_error"] <= 1e-6 and abs(line["first_kl"]) <= 1e-7 for line in lines)


def test_nothing_is_compiled_after_warm_up(study):
    """Invariant 14. The last step also evaluates."""
    for name in ("sft", "reward", "ppo"):
        programs = [line["programs"] for line in tiny.logged(study.folder / name, "timing")]
        assert len(set(programs[1:3])) == 1, (name, programs)


def test_all_tops_belong_to_one_trunk(study):
    """Idea 1: stage checkpoints hold tops, each a fraction of the model, and the trunk's fingerprint."""
    base = load_base(str(study.folder / "initialize" / "model"), 0.8, "float32")
    for name, head in (("sft", set()), ("reward", {"reward"}), ("ppo", {"value"})):
        top, meta = load_top(study.folder / name)
        assert meta["trunk"] == base.fingerprint
        assert set(top) == set(base.top) | head
        assert sorted(top["layers"]) == ["2"]


def test_models_are_sampled_on_the_same_prompts(study):
    """And each is named, scored and finished. Best-of-N answers with its best (invariant 16)."""
    everything = {name: samples(study, name) for name in ("sample_sft", "sample_ppo", "best_of_n")}
    assert len({tuple(record.id for record in records) for records in everything.values()}) == 1
    for records in everything.values():
        assert {record.split for record in records} == {"id_test", "ood_test"}
        assert all(len(record.rewards) == record.n == 4 for record in records)
    assert all(record.selected == int(np.argmax(record.rewards)) for record in everything["best_of_n"])
    assert all(record.selected is None for record in everything["sample_sft"])


def test_the_same_command_again_changes_nothing(study):
    before = contents(study.folder)
    again = run(study.folder)
    assert again.status == 0
    assert again.printed.splitlines()[-1].startswith("all 14 stages are complete")
    after = contents(study.folder)
    assert sorted(after) == sorted(before)
    assert [name for name in before if after[name] != before[name]] == []
