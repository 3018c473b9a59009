"""The table names the smallest slice that fits, of configs that are there."""

from __future__ import annotations

import pytest

from launch import aot_table
from rlhf_jax.chips import GIB
from rlhf_jax.main import read_flags
from rlhf_jax.stages import resolve


def found(topology: str, needed: float, memory: float):
    seconds = {"compute_seconds": 1.5, "memory_seconds": 0.25, "interconnect_seconds": 0.5, "mfu": 0.75}
    empty = dict.fromkeys((*aot_table.MEMORY, "peak"), 0)
    update = {"peak": round((needed - 1) * GIB), "arguments": round((needed - 1) * GIB), "beside": GIB}
    programs = {
        "update": {"memory": {**empty, **update}, "calls": 1, "compile_seconds": 61.4, **seconds},
        "score": {"memory": empty, "calls": 4, "compile_seconds": 2.0, **seconds},
    }
    fits = {"fits": needed <= memory, "step_seconds": 12.34}
    return {"topology": topology, "memory": round(memory * GIB), "programs": programs, **fits}


def test_slices_are_tried_from_the_smallest_until_one_fits(capsys):
    tried = []

    def check(flags, topology):
        """A model that needs 40 GiB, whole or divided over a slice's chips."""
        tried.append(topology)
        chips = {"1x1": 1, "2x2": 4, "2x4": 8}[topology.partition(":")[2]]
        return found(topology, 40 / chips, 8.0)

    best = aot_table.smallest(check, "llama7b", "ppo", "v5e")
    assert tried == ["v5e:1x1", "v5e:2x2", "v5e:2x4"]
    assert aot_table.cell(best) == "v5e:2x4, 5.0 of 8.0 GiB, 12.3 s"
    assert "v5e:2x2: none" in capsys.readouterr().err


def test_every_row_of_the_table_is_of_a_config_that_its_stage_accepts(tmp_path):
    rows = []

    def check(flags, topology):
        config, *_ = read_flags(["aot_check", *flags, "--workdir=none"])
        _, parsed = resolve(config)
        settings = getattr(parsed, "sampling", parsed)
        assert (settings.mesh.tensor, settings.blocks.scan) == (1, True)
        rows.append((settings.model, config["stage"], topology.partition(":")[0]))
        return found(topology, 1.0, 2.0)

    lines, listed = (part.splitlines() for part in "\n".join(aot_table.table(check, tmp_path)).split("\n\n"))
    assert len(set(rows)) == len(rows) == 3 * 4 * 4
    assert lines[:2] == ["| model | stage | v4 | v5e | v5p | v6e |", "| --- | --- | --- | --- | --- | --- |"]
    assert len(lines) == 2 + 3 * 4
    assert lines[2].startswith("| llama7b | sft | v4:1x1x1, 1.0 of 2.0 GiB, 12.3 s | v5e:1x1, ")
    assert len(listed) == 2 + 4 * 2 * 2, "of one model: each stage on two slices, each with its two programs"
    assert listed[2] == (
        "| sft, v5e:1x1 | update | 1 | 0.0 | 0.0 | 0.0 | 0.0 | 1.0 | 1.0 | 1.50 s | 0.25 s | 0.50 s | 0.75 | 61 s |"
    )


def test_copies_share_the_batch_evenly():
    flags = aot_table.config_flags("bon", "opt6_7b", "v5e:16x16")
    assert flags[-2:] == ["--config.sampling.mesh.tensor=8", "--config.sampling.batch_size=32"]
    assert aot_table.config_flags("sft", "opt6_7b", "v5e:2x2")[-2:] == [
        "--config.mesh.tensor=4",
        "--config.microbatch=8",
    ]


def test_a_table_that_was_stopped_goes_on_where_it_was(tmp_path):
    tried = []

    def check(flags, topology):
        """One chip is not enough; at the fortieth slice the run is stopped."""
        if len(tried) == stop:
            raise KeyboardInterrupt
        tried.append((*flags, topology))
        return found(topology, 1.0 if "x2" in topology else 3.0, 2.0)

    stop = 40
    with pytest.raises(KeyboardInterrupt):
        list(aot_table.table(check, tmp_path))
    stop = 1000
    lines = list(aot_table.table(check, tmp_path))
    again = tried[40:]
    assert len(set(tried)) >= len(tried) - 1, "at most one slice of the cell that was stopped is tried anew"
    assert again and list(aot_table.table(check, tmp_path)) == lines and tried[40:] == again
