"""docs/your_task.md as written: its config, its command, on rows of its columns."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.data.tokenizer import train_tokenizer
from tests import tiny

PAGE = (Path(__file__).parents[1] / "docs" / "your_task.md").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The page's config and files of its columns."""
    [config] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_task.py").write_text(config)
    [row] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    words = json.loads(row)["body"].split()
    rng = np.random.default_rng(0)
    for name, count in (("tickets", 160), ("chats", 50)):
        rows = [
            {"body": " ".join(rng.permutation(words)), "title": " ".join(rng.choice(words, 4))} for _ in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(folder: Path, *changes: str) -> subprocess.CompletedProcess[str]:
    """The page's command."""
    [command] = re.findall(r"^    rlhf-jax (.*)$", PAGE, re.MULTILINE)
    words = [sys.executable, "-m", "rlhf_jax.main", *command.split(), *changes]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def test_its_data_are_prepared_and_every_setting_is_checked(folder: Path) -> None:
    """Stopped by a model that is not there, which is found before the first stage."""
    changes = [f"--config.stages.{stage}.model=nowhere" for stage in ("sft", "reward", "ppo")]
    ran = run(folder, *changes)
    assert ran.returncode == 1 and "nowhere" in ran.stderr, ran.stderr
    assert not (folder / "runs" / "tickets" / "prepare").exists()


@pytest.mark.soak
def test_it_ends_in_a_report(folder: Path) -> None:
    """On a small random model that writes the rows' words, with few steps."""
    model = tiny.write_model(folder / "model")
    train_tokenizer((folder / "tickets.jsonl").read_text().splitlines(), tiny.VOCABULARY).save_pretrained(model)
    small = ["--config.stages.sft.steps=4", "--config.stages.reward.steps=4", "--config.stages.ppo.num_rollouts=2"]
    small.append("--config.stages.reward.response_buckets=(96,)")  # random tokens are read as more
    trained = [f"--config.stages.{stage}.model={model}" for stage in ("sft", "reward", "ppo")]
    sampled = [
        f"--config.stages.{stage}.sampling.model={model}" for stage in ("sample_pairs", "sample_sft", "sample_ppo")
    ]
    ran = run(folder, *small, *trained, *sampled, f"--config.stages.best_of_n.sampling.model={model}")
    assert ran.returncode == 0, ran.stderr
    assert (folder / "runs" / "tickets" / "report" / "report.html").is_file()
