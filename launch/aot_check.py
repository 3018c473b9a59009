"""Does a run fit into the memory of a TPU topology, and how fast is it there at best? No TPU is needed.

    python launch/aot_check.py --config=configs/ppo_tldr.py:llama7b --topology=v5e:2x4 [--config.key=value ...]
    python launch/aot_check.py --all    # the table in docs/performance.md, by launch/aot_table.py: hours, resumable

Compiles every program of the config's stage for that topology from shapes alone and prints one JSON object. The
compiler comes with the extra [tpu]. Weights and data are not read: a model is one of
`rlhf_jax/models/hf/presets.py`, or a folder or file that is here.
Where a config leaves the frozen fraction to the run that it starts from, it is 0.8.

    fits           true if every program fits beside the other arrays of the stage
    memory         bytes per device
    step_seconds   estimate of one step: an update, a rollout with its update, or a batch of prompts
    programs       of each program:
      calls                per step, 0 for a program that only evaluates
      flops, bytes         flops of all devices, bytes to and from the memory of each (`rlhf_jax/models/flops.py`)
      compute_seconds, memory_seconds, interconnect_seconds, seconds, mfu
                           estimates of one call, by the formula of `rlhf_jax/aot/check.py`
      memory               bytes per device by kind, from the compiler: peak = arguments + outputs + temporaries +
                           program. `aliased`: arguments that outputs replace. `beside`: other arrays of the stage
      collectives          by kind: bytes of the result on a device, bytes moved each time, devices of a group, times in
                           one call (null: unknown), loops around it, number of these
      needed               replaces the above for a program that does not fit: the least bytes per device that it needs
      compile_seconds

Exit status: 0 if it fits, 1 if it does not or on bad input, which is reported in one sentence.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from rlhf_jax.errors import UserError
from rlhf_jax.main import read_flags

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """Prints the answer for the command line `arguments` (the program's name first). Returns the exit status."""
    if "--help" in arguments:
        print(__doc__)
        return 0
    values = flags.FlagValues()
    flags.DEFINE_string("topology", "", "", flag_values=values)
    flags.DEFINE_bool("all", False, "", flag_values=values)
    os.environ["JAX_PLATFORMS"] = "cpu"  # read when jax is first imported
    sys.path.insert(0, str(ROOT))  # configs import each other from there
    try:
        words = values(arguments, known_only=True)
        if values["all"].value:
            from launch.aot_table import write

            write(partial(check, whole=False))
            return 0
        found = check(words[1:], values["topology"].value)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2))
    return 0 if found["fits"] else 1


def check(words: list[str], topology: str, whole: bool = True) -> dict[str, Any]:
    """What `aot.check.check` finds of the config that the command line's words name."""
    from rlhf_jax.aot.check import check

    config, *_ = read_flags(["aot_check", *words, "--workdir=none"])  # nothing is written
    return check(config, topology, whole)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
