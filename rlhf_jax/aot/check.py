"""Checks if a run fits a TPU topology and estimates its best speed: every program compiled, none run.

Seconds are an estimate by a formula, the larger of two bounds and the interconnect after it:

    seconds = max(flops / (devices * peak), bytes / bandwidth) + moved / interconnect

with flops and bytes of `work` and the bytes moved by collectives of `compiled`. Nothing overlaps with collectives here
and everything else overlaps perfectly. MFU is the flops over what the peak would do in those seconds. Devices of a
`tensor` axis that rules leave a whole (`config.mesh.rules.kv_heads=()`) all compute it, which is not counted.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from rlhf_jax.aot import abstract, compiled, programs, topologies
from rlhf_jax.aot.programs import Program
from rlhf_jax.errors import UserError
from rlhf_jax.parallel import sharding
from rlhf_jax.parallel.chips import GIB, Chip
from rlhf_jax.stages.runner import resolve

STAGES = ("sft", "reward", "ppo", "best_of_n", "generate")
_TOO_MUCH = re.compile(r"\(([\d.]+)([KMG])\) exceeds available HBM")


def check(config: Mapping[str, Any], topology: str, whole: bool = True) -> dict[str, Any]:
    """Compiles every program of a stage for a topology.

    Args:
      config: of the stage, as plain data.
      topology: a key of `topologies.TOPOLOGIES`.
      whole: True to compile programs after the first that does not fit too.

    Returns:
      The fields in the docstring of `launch/aot_check.py`, which prints them.

    Raises:
      UserError: another stage, a config that does not fit it, an unknown topology or model, a mesh or batch that does
        not divide, or libtpu is missing.
    """
    if config.get("stage") not in STAGES:
        raise UserError(f"config.stage is {config.get('stage')!r}; what can be checked: {', '.join(STAGES)}")
    _, parsed = resolve(config)
    chip, devices = topologies.devices(topology)
    settings = getattr(parsed, "sampling", parsed)
    fits, of_programs = True, {}
    with sharding.arrange(settings.mesh, devices) as mesh:
        if mesh.size < len(devices):
            raise UserError(
                f"the mesh is {settings.mesh}, which uses {mesh.size} of the {len(devices)} chips of {topology}"
            )
        for program in programs.list_programs(parsed):
            if fits or whole:
                of_programs[program.name] = inspect(program, chip, len(devices))
                fits = fits and of_programs[program.name]["fits"]
    step = [found["calls"] * found["seconds"] for found in of_programs.values() if fits]
    return {
        "stage": config["stage"],
        "model": settings.model,
        "topology": topology,
        "devices": len(devices),
        "memory": chip.memory,
        "fits": fits,
        "step_seconds": sum(step) if fits else None,
        "programs": of_programs,
    }


def inspect(program: Program, chip: Chip, devices: int) -> dict[str, Any]:
    """Compiles one program and says what it needs, by the fields of `check`'s "programs"."""
    began = time.perf_counter()
    found = {"calls": program.calls, "flops": program.work.flops, "bytes": program.work.bytes}
    held = abstract.device_bytes(program.arguments) + program.beside
    if held > chip.memory:
        return {**found, "fits": False, "needed": held, "compile_seconds": 0.0}
    try:
        with topologies.quiet():
            executable = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if not (needed := _TOO_MUCH.search(str(error))):
            raise
        size = round(float(needed[1]) * {"K": 2**10, "M": 2**20, "G": GIB}[needed[2]])
        return {**found, "fits": False, "needed": size, "compile_seconds": time.perf_counter() - began}
    seconds = time.perf_counter() - began
    memory = compiled.memory(executable.memory_analysis())
    moving = compiled.collectives(executable.as_text(), devices)
    found |= bounds(program, chip, devices, sum(each.moved * (each.times or 1) for each in moving))
    return {
        **found,
        "fits": memory["peak"] + program.beside <= chip.memory,
        "memory": {**memory, "beside": program.beside},
        "collectives": compiled.summary(moving),
        "compile_seconds": seconds,
    }


def bounds(program: Program, chip: Chip, devices: int, moved: int) -> dict[str, float]:
    """Seconds of one call by each bound and in all, and the MFU. `moved` are the bytes that each device sends."""
    computing = program.work.flops / (devices * chip.flops)
    reading, sending = program.work.bytes / chip.bandwidth, moved / chip.interconnect
    seconds = max(computing, reading) + sending
    return {
        "compute_seconds": computing,
        "memory_seconds": reading,
        "interconnect_seconds": sending,
        "seconds": seconds,
        "mfu": computing / seconds if seconds else 0.0,
    }
