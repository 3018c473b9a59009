"""The smallest slice of each TPU generation that the study's stages fit on, and what each program of LLaMA-7B's needs
on two of them: what `aot_check.py --all` writes down.

The rows of TL;DR of three models (`configs/study.py`), divided over up to eight chips by `tensor` and copied beyond
that. Slices are tried from the smallest on.
"""

import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.page import replace_part
from rlhf_jax.aot.topologies import TOPOLOGIES
from rlhf_jax.parallel.chips import CHIPS, GIB

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("rlhf_jax", "configs", "launch")  # the folders whose code the table depends on
MODELS = ("llama7b", "llama3_8b", "opt6_7b")  # presets of configs/rows.py
STAGES = ("sft", "reward", "ppo", "bon")
LISTED = ("v5e", "v5p")  # the generations on which the first model's programs are listed
MEMORY = ("arguments", "outputs", "temporaries", "program", "beside")
SECONDS = ("compute_seconds", "memory_seconds", "interconnect_seconds")

CAPTION = """The smallest slice for each stage, with its settings in `configs/*_tldr.py` (bfloat16, scanned): peak
memory per chip of the largest program / HBM per chip, and the best seconds of a step. Below it are the programs of
LLaMA-7B, in GiB per chip. *beside* is memory that the stage holds outside a program's arguments. Seconds are of one
call, by each bound alone. Compile times are wall clock, on two cores per program."""

type Check = Callable[[list[str], str], dict[str, Any]]  # flags of a config and a topology, to `aot.check.check`'s


def write(check: Check) -> None:
    """Writes both tables into docs/performance.md. Goes on where the same code was stopped. `check` as in `table`."""
    versions = {name: version(name) for name in ("jax", "libtpu")}
    folder = ROOT / "build" / "aot" / fingerprint(versions, *(ROOT / part for part in SOURCES))
    # A compilation keeps up to two cores busy and may take 10 GB. A fork would share libtpu's threads.
    workers = max(1, (os.cpu_count() or 1) // 2)
    with ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as processes:
        made_with = f"{date.today()}, {', '.join(f'{name} {number}' for name, number in versions.items())}."
        lines = [made_with, *table(check, folder, processes.map)]
    replace_part(ROOT / "docs" / "performance.md", "aot", "\n".join(lines))


def fingerprint(versions: Mapping[str, str], *folders: Path) -> str:
    """Of all that the table depends on: library versions and every Python file in some folders."""
    digest = hashlib.sha256(json.dumps(versions).encode())
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"\0{path.relative_to(folder.parent)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def table(check: Check, folder: Path, mapping: Callable[..., Iterable[Any]] = map) -> Iterator[str]:
    """The lines of both tables in Markdown. What is found on the way goes to stderr.

    Args:
      check: of one config on one topology. May leave out programs after the first that does not fit.
      folder: keeps what is found of each cell, and gives it back when the table is asked for again.
      mapping: as `map`, maybe of several processes.
    """
    cells = list(itertools.product(MODELS, STAGES, CHIPS))
    folder.mkdir(parents=True, exist_ok=True)
    yield CAPTION
    yield ""
    best = dict(zip(cells, mapping(partial(kept, folder, check), *zip(*cells, strict=True)), strict=True))
    yield from header("model", "stage", *CHIPS)
    for model, stage in itertools.product(MODELS, STAGES):
        yield row(model, stage, *(cell(best[model, stage, generation]) for generation in CHIPS))
    yield ""
    kinds = [*MEMORY, "in all", "compute", "memory", "interconnect", "MFU", "compiled in"]
    yield from header("stage, slice", "program", "calls", *kinds)
    for stage, generation in itertools.product(STAGES, LISTED):
        if found := best[MODELS[0], stage, generation]:
            yield from listed(stage, found)


def header(*names: str) -> Iterator[str]:
    """The first two lines of a table."""
    yield row(*names)
    yield row(*["---"] * len(names))


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def listed(stage: str, found: dict[str, Any]) -> Iterator[str]:
    """A line for each program of what `smallest` found: GiB a device by kind, seconds of a call by each bound alone."""
    for name, program in found["programs"].items():
        memory = [f"{program['memory'][kind] / GIB:.1f}" for kind in MEMORY]
        seconds = [f"{program[bound]:.2f} s" for bound in SECONDS]
        most = f"{(program['memory']['peak'] + program['memory']['beside']) / GIB:.1f}"
        times = [*seconds, f"{program['mfu']:.2f}", f"{program['compile_seconds']:.0f} s"]
        yield row(f"{stage}, {found['topology']}", name, str(program["calls"]), *memory, most, *times)


def kept(folder: Path, check: Check, model: str, stage: str, generation: str) -> dict[str, Any] | None:
    """What `smallest` found the first time."""
    path = folder / f"{model}-{stage}-{generation}.json"
    if not path.exists():
        fresh = path.with_suffix(".fresh")
        fresh.write_text(json.dumps(smallest(check, model, stage, generation)))
        os.replace(fresh, path)
    return json.loads(path.read_text())


def smallest(check: Check, model: str, stage: str, generation: str) -> dict[str, Any] | None:
    """What is found of the smallest slice that fits, or None."""
    for topology in TOPOLOGIES:
        if topology.startswith(f"{generation}:"):
            found = check(config_flags(stage, model, topology), topology)
            print(f"{model} {stage} {topology}: {cell(found if found['fits'] else None)}", file=sys.stderr, flush=True)
            if found["fits"]:
                return found
    return None


def config_flags(stage: str, model: str, topology: str) -> list[str]:
    """The command line's words for a stage of the study with one model on one slice."""
    chips = math.prod(int(size) for size in topology.partition(":")[2].split("x"))
    tensor = min(chips, 8)
    where, batch = ("config.sampling", "batch_size") if stage == "bon" else ("config", "microbatch")
    keys = {"mesh.tensor": tensor}
    if chips // tensor > 8:  # copies share a batch evenly. A row's own has eight rows or sixteen
        keys[batch] = chips // tensor
    return [f"--config=configs/{stage}_tldr.py:{model}", *(f"--{where}.{key}={value}" for key, value in keys.items())]


def cell(found: dict[str, Any] | None) -> str:
    """What the table says of a slice: topology, the most bytes that a device needs, the estimate of a step."""
    if found is None:
        return "none"
    most = max(program["memory"]["peak"] + program["memory"]["beside"] for program in found["programs"].values())
    return f"{found['topology']}, {most / GIB:.1f} of {found['memory'] / GIB:.1f} GiB, {found['step_seconds']:.1f} s"
