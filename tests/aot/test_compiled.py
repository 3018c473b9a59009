"""Memory and collectives, read from small texts in the compiler's own forms."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rlhf_jax.aot.compiled import Collective, collectives, memory, summary

# A loop of 48 turns around a loop of 4, a branch, and a fusion that hides a collective; as libtpu writes them.
PROGRAM = """HloModule jit_decode, is_scheduled=true, num_partitions=8

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused.gather (p: bf16[16,8]) -> bf16[128,8] {
  %p = bf16[16,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[128,8]{1,0:T(8,128)(2,1)} all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}
}

%inner.condition (s: (s32[], f32[4])) -> pred[] {
  %four = s32[]{:T(128)} constant(4)
  %s = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %four), direction=LT, metadata={op_name="jit(decode)/while/cond/lt"}
}

%inner.body (s.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s.1 = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %x = f32[4]{0:T(128)} get-tuple-element(%s.1), index=1
  %swap = f32[4]{0:T(128)} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  ROOT %t = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%x, %swap)
}

%outer.condition (s.2: (s32[], pred[2])) -> pred[] {
  %yes = pred[]{:T(512)} constant(true)
  %most = s32[]{:T(128)} constant(48)
  %s.2 = (s32[]{:T(128)}, pred[2]{0:T(512)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%s.2), index=0
  %lt.1 = pred[]{:T(512)S(6)} compare(%i.1, %most), direction=LT
  ROOT %and = pred[]{:T(512)} and(%lt.1, %yes)
}

%branch.0 (b.0: f32[2,3]) -> f32[2,3] {
  ROOT %b.0 = f32[2,3]{1,0} parameter(0)
}

%branch.1 (b.1: f32[2,3]) -> f32[2,3] {
  %b.1 = f32[2,3]{1,0} parameter(0)
  ROOT %all-reduce.2 = f32[2,3]{1,0} all-reduce(%b.1), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add.1
}

%outer.body (s.3: (s32[], pred[2])) -> (s32[], pred[2]) {
  %s.3 = (s32[]{:T(128)}, pred[2]{0:T(512)}) parameter(0)
  %w = (s32[]{:T(128)}, f32[4]{0:T(128)}) while(%s.3), condition=%inner.condition, body=%inner.body
  %c = f32[2,3]{1,0} conditional(%w, %w, %w), branch_computations={%branch.0, %branch.1}
  %f = bf16[128,8]{1,0} fusion(%c), kind=kCustom, calls=%fused.gather
  %pair = (bf16[8]{0}, s32[3]{0}) all-reduce(%f, %f), \
replica_groups=mesh['data'=2,'fsdp'=2,'tensor'=2] \
{'data','fsdp'}, to_apply=%add.1, metadata={op_name="jit(decode)/while/body/mlp/down" stack_frame_id=3}
  ROOT %t.1 = (s32[]{:T(128)}, pred[2]{0:T(512)}) tuple(%w, %pair)
}

ENTRY %main.5 (p0: f32[32]) -> f32[4] {
  %p0 = f32[32]{0} parameter(0)
  %loop = (s32[]{:T(128)}, pred[2]{0:T(512)}) while(%p0), condition=%outer.condition, body=%outer.body
  %start = (f32[4]{0}, f32[32]{0}) all-gather-start(%p0), replica_groups=[1,8]<=[8], dimensions={0}
  %done = f32[32]{0} all-gather-done(%start)
  %alone = f32[32]{0} all-reduce(%done), replica_groups=[8,1]<=[8], to_apply=%add.1
  ROOT %scattered = f32[4]{0} reduce-scatter(%alone), replica_groups={}, dimensions={0}, to_apply=%add.1
}
"""


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
