"""Memory and collectives, read from small texts in the compiler's own forms."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_jax.aot.compiled import Collective, collectives, memory, summary

# A loop of 48 turns around a loop of 4, a branch, and a fusion that hides a collective. As libtpu writes them.
PROGRAM = (Path(__file__).parents[1] / "golden" / "decode.hlo").read_text()


def test_collectives_with_their_sizes_groups_and_times():
    found = {each.kind + str(each.loops) + str(each.bytes): each for each in collectives(PROGRAM, 8)}
    assert sorted(found) == [
        "all-gather0128",
        "all-gather12048",
        "all-reduce124",
        "all-reduce128",
        "collective-permute216",
        "reduce-scatter016",
    ]
    assert found["all-gather12048"] == Collective("all-gather", 128 * 8 * 2, 8, 48, 1, "")
    assert found["collective-permute216"] == Collective("collective-permute", 16, 2, 48 * 4, 2, "")
    assert found["all-reduce124"] == Collective("all-reduce", 24, 4, 48, 1, "")
    assert found["all-reduce128"] == Collective("all-reduce", 28, 4, 48, 1, "jit(decode)/while/body/mlp/down")
    assert found["reduce-scatter016"].devices == 8  # no groups are all devices


def test_a_loop_whose_turns_are_not_in_the_text_is_said_so():
    hidden = PROGRAM.replace("constant(48)", "parameter(0)")
    assert {each.times for each in collectives(hidden, 8) if each.loops} == {None}
    assert {each.times for each in collectives(hidden, 8) if not each.loops} == {1}


@pytest.mark.parametrize(
    ("kind", "size", "moved"),
    [
        ("all-gather", 800, 700),  # each device passes the seven other shares of 100 on
        ("reduce-scatter", 100, 700),
        ("all-reduce", 800, 1400),  # a reduce-scatter and an all-gather
        ("all-to-all", 800, 700),
        ("collective-permute", 800, 800),
    ],
)
def test_bytes_moved_on_a_ring_of_eight(kind, size, moved):
    assert Collective(kind, size, 8, 1, 0, "").moved == moved


def test_a_summary_puts_equals_together_and_what_moves_most_first():
    small, large = (Collective("all-reduce", size, 2, 3, 1, "") for size in (8, 20))
    found = summary([small, large, small])
    assert [(row["bytes"], row["moved"], row["count"]) for row in found] == [(20, 20, 1), (8, 8, 2)]


def test_what_outputs_take_over_from_arguments_counts_once():
    analysis = SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=70,
        alias_size_in_bytes=60,
        temp_size_in_bytes=5,
        generated_code_size_in_bytes=2,
    )
    assert memory(analysis) == {
        "arguments": 100,
        "outputs": 10,
        "temporaries": 5,
        "program": 2,
        "aliased": 60,
        "peak": 117,
    }
