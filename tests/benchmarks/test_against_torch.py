"""The benchmark's bookkeeping: which side a ratio favours, and that only the marked part of a page is rewritten."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def against_torch(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # its scripts run as files and import each other so
    import against_torch

    yield against_torch
    for name in ("against_torch", "workloads"):
        sys.modules.pop(name, None)


def pair(torch_seconds: float, our_seconds: float):
    return (
        {"seconds": torch_seconds, "versions": {"torch": "1"}},
        {"seconds": our_seconds, "versions": {"jax": "2"}},
    )


def test_row_reports_speeds_and_the_ratio_of_medians(against_torch):
    cells = against_torch.row("bon_128", "float32", [pair(8.0, 2.0), pair(6.0, 3.0), pair(7.0, 2.5)]).split(" | ")
    assert cells[1:] == ["float32", "110 new tokens/s", "307 new tokens/s", "**2.80**", "2.00 to 4.00 |"]


def test_an_iteration_is_reported_in_seconds(against_torch):
    assert "| 40.0 s | 16.0 s | **2.50** |" in against_torch.row("ppo", "bfloat16", [pair(40.0, 16.0)])


def test_table_has_a_row_a_result_and_names_the_versions(against_torch):
    table = against_torch.table({("bon_128", "float32"): [pair(2.0, 1.0)], ("ppo", "bfloat16"): [pair(3.0, 1.0)]})
    lines = table.splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[-1].endswith("torch 1, jax 2.")


def test_replacing_the_table_leaves_the_rest_of_the_page(against_torch, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{against_torch.BEGIN}\nold\n{against_torch.END}\nafter\n")
    for content in ("new", "newer"):
        against_torch.replace_table(page, content)
    assert page.read_text() == f"before\n{against_torch.BEGIN}\nnewer\n{against_torch.END}\nafter\n"
    assert list(tmp_path.iterdir()) == [page]


def test_a_page_without_markers_is_refused_and_left_alone(against_torch, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(f"{against_torch.END}{against_torch.BEGIN}")
    with pytest.raises(SystemExit, match="no table to replace"):
        against_torch.replace_table(page, "new")
    assert page.read_text() == f"{against_torch.END}{against_torch.BEGIN}"


def test_the_page_of_this_repository_has_the_markers(against_torch):
    text = against_torch.PAGE.read_text()
    assert 0 < text.find(against_torch.BEGIN) < text.find(against_torch.END)
