"""The smallest slice of each TPU generation that the study's stages fit on: what `aot_check.py --all` writes down.

Three models in bfloat16 with the settings of `configs/paper/`, divided over up to eight chips by `tensor` and copied
beyond that. Slices are tried from the smallest on.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rlhf_jax.aot.topologies import TOPOLOGIES
from rlhf_jax.chips import CHIPS, GIB

MODELS = ("huggyllama/llama-7b", "meta-llama/Meta-Llama-3-8B", "facebook/opt-6.7b")
STAGES = ("sft", "reward", "ppo", "best_of_n")

type Check = Callable[[list[str], str], dict[str, Any]]  # flags of a config and a topology, to `aot.check.check`'s


def table(check: Check) -> Iterator[str]:
    """The lines of the table in Markdown; what is found on the way goes to stderr."""
    yield f"| model | stage | {' | '.join(CHIPS)} |"
    yield f"|{' --- |' * (2 + len(CHIPS))}"
    for model in MODELS:
        for stage in STAGES:
            cells = [cell(smallest(check, stage, model, generation)) for generation in CHIPS]
            yield f"| {model} | {stage} | {' | '.join(cells)} |"


def smallest(check: Check, stage: str, model: str, generation: str) -> dict[str, Any] | None:
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
    where, batch = ("config.sampling", "batch_size") if stage == "best_of_n" else ("config", "microbatch")
    keys = {"model": model, "dtype": "bfloat16", "mesh.tensor": tensor, batch: max(8, chips // tensor)}
    return [f"--config=configs/paper/{stage}.py", *(f"--{where}.{key}={value}" for key, value in keys.items())]


def cell(found: dict[str, Any] | None) -> str:
    """What the table says of a slice: topology, the most bytes that a device needs, the estimate of a step."""
    if found is None:
        return "none"
    most = max(program["memory"]["peak"] + program["memory"]["beside"] for program in found["programs"].values())
    return f"{found['topology']}, {most / GIB:.1f} of {found['memory'] / GIB:.1f} GiB, {found['step_seconds']:.1f} s"
