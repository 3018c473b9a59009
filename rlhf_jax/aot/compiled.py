"""Facts from a compiled program: its memory, and the collectives in its text with the number of times each runs.

The text is XLA's, after all passes: computations of one instruction a line, which call each other. A collective inside
a loop runs as often as the loop turns, which is the number that the loop's condition compares its counter with. A loop
that may end earlier (decoding) is counted in full, and so are all alternatives of a branch.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}  # other types end in their number of bits

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)\}?")
_LOOP = re.compile(r"condition=%([\w.\-]+), body=%([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction of a program."""

    kind: str  # of `KINDS`
    bytes: int  # of its result on one device: for a reduce-scatter a shard, for an all-gather the whole
    devices: int  # in each of its groups
    times: int | None  # that it runs in one call. None inside a loop whose number of turns the text hides
    loops: int  # that it is nested in
    source: str  # the operation in the program's own words ("jit(decode)/while/body/dot_general"), or ""

    @property
    def moved(self) -> int:
        """Bytes that one run sends from each device, on a ring of the group's n devices.

        The fraction (n - 1) / n of the whole for an all-gather, reduce-scatter or all-to-all, twice that for an
        all-reduce, and the array itself for a permutation.
        """
        n = self.devices
        others = (n - 1) / n
        sent = dict(zip(KINDS, (others, 2 * others, n - 1, others, 1), strict=True))
        return round(self.bytes * sent[self.kind])


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    result: str  # its type
    operation: str
    rest: str  # operands and attributes


def memory(analysis: Any) -> dict[str, int]:
    """Bytes on each device by kind, and their sum as "peak", of `compiled.memory_analysis()`.

    "aliased" is memory of arguments that outputs take over. It counts in "arguments" and not in "outputs".
    """
    kinds = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "program": analysis.generated_code_size_in_bytes,
    }
    return {**kinds, "aliased": analysis.alias_size_in_bytes, "peak": sum(kinds.values())}


def collectives(text: str, devices: int) -> list[Collective]:
    """The collectives of `compiled.as_text()`, in its order, those over one device left out.

    `devices` is the number of devices of the mesh, for groups that the text does not list.
    """
    computations, entry = _parse(text)
    found: list[Collective] = []

    def visit(name: str, times: int | None, loops: int) -> None:
        for instruction in computations.get(name, []):
            if loop := _LOOP.search(instruction.rest):
                turns = _turns(computations.get(loop[1], []))
                inner = None if times is None or turns is None else times * turns
                visit(loop[1], inner, loops + 1)
                visit(loop[2], inner, loops + 1)
                continue
            kind = instruction.operation.removesuffix("-start")
            if kind in KINDS:
                size = _group_size(instruction.rest, devices)
                if size > 1:
                    source = re.search(r'op_name="([^"]*)"', instruction.rest)
                    of_result = _result_bytes(instruction)
                    found.append(Collective(kind, of_result, size, times, loops, source[1] if source else ""))
                continue  # what it applies to each pair of numbers is no program of its own
            for called in _CALLED.findall(instruction.rest):
                for inner_name in called.replace("%", "").split(", "):
                    visit(inner_name, times, loops)

    visit(entry, 1, 0)
    return found


def summary(found: list[Collective]) -> list[dict[str, Any]]:
    """Collectives of one kind, size and number of times together: how many there are, and what they move in all."""
    names = ("kind", "bytes", "moved", "devices", "times", "loops")
    alike = Counter(tuple(getattr(each, name) for name in names) for each in found)
    rows = [{**dict(zip(names, key, strict=True)), "count": count} for key, count in alike.items()]
    return sorted(rows, key=lambda row: -row["moved"] * (row["times"] or 1) * row["count"])


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """The instructions of each computation, and the name of the one that is entered first."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            current.append(_Instruction(*instruction.groups()))
    return computations, entry


def _turns(condition: list[_Instruction]) -> int | None:
    """Maximum number of iterations of a loop: the constant that its condition compares the counter with."""
    constants = {
        i.name: int(value[0])
        for i in condition
        if i.operation == "constant" and i.result.startswith("s32") and (value := re.match(r"-?\d+", i.rest))
    }
    limits = [
        constants[operands[-1]]
        for i in condition
        if i.operation == "compare"
        and "direction=LT" in i.rest
        and (operands := re.findall(r"%([\w.\-]+)", i.rest.partition(")")[0]))[-1] in constants
    ]
    return limits[0] if len(limits) == 1 else None


def _result_bytes(instruction: _Instruction) -> int:
    """Bytes of an instruction's result."""
    # The type of an asynchronous start names its operands first, and for a permutation two counters at last.
    sizes = list(_array_bytes(instruction.result))
    if not instruction.operation.endswith("-start") or instruction.operation == "all-reduce-start":
        return sum(sizes)
    if instruction.operation == "collective-permute-start":
        return sizes[1]
    return sum(sizes[len(sizes) // 2 :])


def _array_bytes(shape: str) -> Iterator[int]:
    for dtype, sizes in _ARRAY.findall(re.sub(r"\{[^{}]*\}", "", shape)):
        bits = BITS.get(dtype) or int(re.match(r"[a-z]+(\d+)", dtype)[1])
        yield math.prod(int(size) for size in sizes.split(",") if size) * bits // 8


def _group_size(attributes: str, devices: int) -> int:
    """Devices in each group, by any of the ways in which a text writes groups down."""
    if "source_target_pairs=" in attributes:
        return 2
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed[1].split(","))
    return devices
