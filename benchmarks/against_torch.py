"""rlhf_jax side by side with torch and transformers: the same work, in turn, on the same machine.

    make torch-setup
    .venv/bin/python benchmarks/against_torch.py --cases bon_512 ppo --dtypes bfloat16 --pairs 3

Every measurement is a process of its own. The two sides alternate (torch, JAX, torch, JAX, ...), so that a machine
that slows down slows both. `--write` replaces the table in docs/performance.md.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from page import replace_part
from workloads import DTYPES, THREADS, WORKLOADS

ROOT = Path(__file__).resolve().parent.parent
TORCH_PYTHON = ROOT / ".torch-venv" / "bin" / "python"
PAGE = ROOT / "docs" / "performance.md"
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")

Result = Mapping[str, Any]
Pair = tuple[Result, Result]  # torch, JAX


def measure(python: Path, script: str, case: str, dtype: str, repeats: int) -> Result:
    """The JSON line that one side prints for one workload. Ends the program if that side fails."""
    command = [str(python), str(ROOT / "benchmarks" / script), "--case", case, "--dtype", dtype]
    process = subprocess.run([*command, "--repeats", str(repeats)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if process.returncode != 0:
        sys.exit(f"{script} --case {case} --dtype {dtype} ended with status {process.returncode}, 0 was expected.")
    return json.loads(process.stdout.splitlines()[-1])


def row(case: str, dtype: str, pairs: Sequence[Pair]) -> str:
    """One line of the table: medians over all processes, and how much the ratio varied from pair to pair."""
    workload = WORKLOADS[case]
    torch, ours = (statistics.median(side["seconds"] for side in sides) for sides in zip(*pairs, strict=True))
    ratios = [theirs["seconds"] / mine["seconds"] for theirs, mine in pairs]

    def speed(seconds: float) -> str:
        return f"{seconds:.1f} s" if workload.work == 1 else f"{workload.work / seconds:,.0f} {workload.unit}/s"

    return (
        f"| {workload.title} | {dtype} | {speed(torch)} | {speed(ours)} | **{torch / ours:.2f}** "
        f"| {min(ratios):.2f} to {max(ratios):.2f} |"
    )


def machine(torch: Result, ours: Result) -> str:
    """One sentence: where and when, and with which versions."""
    cpuinfo = Path("/proc/cpuinfo")
    facts = {}
    if cpuinfo.exists():  # Linux
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        facts = {key.strip(): value.strip() for key, _, value in lines}
    name = facts.get("model name", platform.machine())
    flags = [flag for flag in CPU_FLAGS if flag in facts.get("flags", "").split()]
    versions = ", ".join(
        f"{package} {number}" for side in (torch, ours) for package, number in side["versions"].items()
    )
    return (
        f"{datetime.date.today().isoformat()}, {platform.system()} {platform.machine()}, {name}, "
        f"{os.cpu_count()} cores, {THREADS} used ({', '.join(flags) or 'flags unknown'}); {versions}."
    )


def table(results: Mapping[tuple[str, str], Sequence[Pair]]) -> str:
    header = (
        "| work | dtype | torch | rlhf_jax | ratio of medians | ratio from pair to pair |\n|---|---|---|---|---|---|"
    )
    rows = [row(case, dtype, pairs) for (case, dtype), pairs in results.items()]
    first_pair = next(iter(results.values()))[0]
    return "\n".join([header, *rows, "", machine(*first_pair)])


def main() -> None:
    parser = argparse.ArgumentParser(description="rlhf_jax side by side with torch and transformers.")
    parser.add_argument("--cases", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--pairs", type=int, default=3, help="how often each side is started, in turn")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls in one process, after one that is not")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/performance.md")
    args = parser.parse_args()
    if not TORCH_PYTHON.exists():
        sys.exit(f"{TORCH_PYTHON.relative_to(ROOT)} is missing; `make torch-setup` makes it.")

    results: dict[tuple[str, str], list[Pair]] = {}
    for case in args.cases:
        for dtype in args.dtypes:
            pairs = results.setdefault((case, dtype), [])
            for _ in range(args.pairs):
                torch = measure(TORCH_PYTHON, "torch_side.py", case, dtype, args.repeats)
                pairs.append((torch, measure(Path(sys.executable), "jax_side.py", case, dtype, args.repeats)))
            print(row(case, dtype, pairs), flush=True)

    content = table(results)
    print(f"\n{content}")
    if args.write:
        replace_part(PAGE, "against_torch", content)


if __name__ == "__main__":
    main()
