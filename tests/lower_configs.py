"""Lowers every program of the stages of configs, from shapes alone, on eight devices of a CPU.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.lower_configs configs/ppo_tldr.py:opt125m ...

Prints a line a stage: the config, the stage's name and its programs. `test_experiments` runs it.
"""

import sys
from collections.abc import Iterator
from typing import Any

from rlhf_jax.aot import check, programs
from rlhf_jax.main import read_flags
from rlhf_jax.parallel import sharding
from rlhf_jax.stages.runner import resolve


def network_stages(config: dict[str, Any], name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The stages of a config that `launch/aot_check.py` can check, by their names in a pipeline."""
    if config["stage"] in check.STAGES:
        yield name, config
    for below, stage in config.get("stages", {}).items():
        yield from network_stages(stage, below)


def main(names: list[str]) -> None:
    for config in names:
        flags, *_ = read_flags(["lower_configs", f"--config={config}", "--workdir=none"])
        for name, stage in network_stages(flags):
            _, parsed = resolve(stage)
            with sharding.arrange(getattr(parsed, "sampling", parsed).mesh):
                lowered = [program.name for program in programs.list_programs(parsed) if program.lower()]
            print(config, name or stage["stage"], *lowered, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
