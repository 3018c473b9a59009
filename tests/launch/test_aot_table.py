"""The table names the smallest slice that fits, of configs that are there."""

import itertools

from launch import aot_table
from rlhf_jax.parallel.chips import CHIPS, GIB


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
