"""The table names the smallest slice that fits, of configs that are there."""

from __future__ import annotations

import itertools

from launch import aot_table
from rlhf_jax.main import read_flags
from rlhf_jax.parallel.chips import CHIPS, GIB
from rlhf_jax.stages.runner import resolve


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

    _, lines, listed = (part.splitlines() for part in "\n".join(aot_table.table(check, tmp_path)).split("\n\n"))
    assert len(set(rows)) == len(rows) == 3 * 4 * 4
    assert lines[:2] == ["| model | stage | v4 | v5e | v5p | v6e |", "| --- | --- | --- | --- | --- | --- |"]
    assert len(lines) == 2 + 3 * 4
    assert lines[2].startswith("| llama7b | sft | v4:1x1x1, 1.0 of 2.0 GiB, 12.3 s | v5e:1x1, ")
    assert len(listed) == 2 + 4 * 2 * 2, "of one model: each stage on two slices, each with its two programs"
    assert listed[2] == (
        "| sft, v5e:1x1 | update | 1 | 0.0 | 0.0 | 0.0 | 0.0 | 1.0 | 1.0 | 1.50 s | 0.25 s | 0.50 s | 0.75 | 61 s |"
    )


def test_the_page_has_what_is_written_now():
    """Whoever changes models, stages or generations has to have the table written anew."""
    page = (aot_table.ROOT / "docs" / "performance.md").read_text()
    part = page.partition("<!-- aot:begin -->\n")[2].partition("<!-- aot:end -->")[0]
    made_with, _, rest = part.partition("\n")
    assert "jax " in made_with and "libtpu " in made_with and rest.startswith(aot_table.CAPTION)
    rows = [line.strip("| ").split(" | ") for line in rest.splitlines() if line.startswith("| ")]
    for model, stage in itertools.product(aot_table.MODELS, aot_table.STAGES):
        (cells,) = (row[2:] for row in rows if row[:2] == [model, stage])
        assert all(cell == "none" or cell.startswith(f"{name}:") for name, cell in zip(CHIPS, cells, strict=True))
    for stage, generation in itertools.product(aot_table.STAGES, aot_table.LISTED):
        assert any(row[0].startswith(f"{stage}, {generation}:") for row in rows), (stage, generation)
