"""What the live comparison makes of its numbers; the comparison itself needs torch and is `make oracle`."""

from __future__ import annotations

import dataclasses

import pytest

from tests.oracle import compare_live, smollm2
from tests.oracle.cases import CASES

GREEN = compare_live.Result(CASES["opt"], 5e-5, 2e-5, 1e-5, 3e-6, greedy=True, exported=True)
AGREEMENT = smollm2.Agreement(equal=10, ours=96.3, theirs=96.6, ours_where_clear=99.7)


@pytest.mark.parametrize(
    "change", [{"logits": 2e-4}, {"states": 2e-4}, {"gradients": 2e-3}, {"greedy": False}, {"exported": False}]
)
def test_one_broken_number_is_enough(change):
    assert GREEN.holds
    assert not dataclasses.replace(GREEN, **change).holds


@pytest.mark.parametrize("change", [{"equal": 9}, {"ours": 96.0}, {"ours_where_clear": 99.4}])
def test_one_broken_number_is_enough_for_smollm2(change):
    assert AGREEMENT.holds
    assert not dataclasses.replace(AGREEMENT, **change).holds


def test_an_export_that_is_not_the_same_is_told_of(capsys):
    assert compare_live.loads_the_same("opt", [], 1e-6)
    assert capsys.readouterr().out == ""
    assert not compare_live.loads_the_same("opt", ["lm_head.bias"], 1e-6)
    assert not compare_live.loads_the_same("opt", [], 1e-3)
    told = capsys.readouterr().out
    assert "lm_head.bias" in told and "1.0e-03" in told


def test_tables_are_rectangular():
    tables = [[*compare_live.HEADER.splitlines(), GREEN.row()], AGREEMENT.table().splitlines()]
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
