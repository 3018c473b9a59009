"""What both sides of the benchmark do, and the one way in which either is timed.

Imports only the standard library: `torch_side.py` runs where JAX is not installed, `jax_side.py` where torch is not.
The model is SmolLM2-135M's (LLaMA: 30 layers, width 576, 9 heads, 3 KV heads, FFN 1536, vocabulary 49,152, tied) with
random weights, and EOS never ends a sample: neither changes how long a step takes, and both sides do equal work.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

THREADS = 2
FROZEN_LAYERS = 24  # of 30. The embeddings and the LM head are frozen with them
NEW_TOKENS = 48

BON_SAMPLES = 16
BON_TEMPERATURE = 0.7

SFT_BATCH = 4
SFT_LENGTH = 512
SFT_RESPONSE = 64  # the frozen case's loss reads this many tokens at the end, the full case's reads all

PPO_PROMPTS = 16
PPO_PROMPT_LENGTH = 128
PPO_EPOCHS = 4  # of one minibatch, which is the whole rollout

DTYPES = ("bfloat16", "float32")


@dataclass(frozen=True)
class Workload:
    """One timed call: `work` units of `unit`, as a row of the table calls it."""

    title: str
    work: int
    unit: str


WORKLOADS = {
    "bon_128": Workload("BoN sampling, N = 16, prompt 128", BON_SAMPLES * NEW_TOKENS, "new tokens"),
    "bon_512": Workload("BoN sampling, N = 16, prompt 512", BON_SAMPLES * NEW_TOKENS, "new tokens"),
    "sft_frozen": Workload("SFT step, 80 % frozen", SFT_BATCH * SFT_LENGTH, "tokens"),
    "sft_full": Workload("SFT step, full", SFT_BATCH * SFT_LENGTH, "tokens"),
    "ppo": Workload("PPO iteration, 80 % frozen", 1, "iterations"),
}


def main(make_step: Callable[[str, str], Callable[[], object]], packages: Sequence[str]) -> None:
    """Times one workload as the command line says and prints one JSON line.

    `{"case", "dtype", "seconds": the median, "all": every repeat's seconds, "work", "unit", "versions"}`

    Args:
      make_step: `(case, dtype) -> step`. A call of `step` does the whole work and returns when it is done. The first
        call is not timed.
      packages: the distributions whose versions are printed.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=WORKLOADS, required=True)
    parser.add_argument("--dtype", choices=DTYPES, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])

    step = make_step(args.case, args.dtype)
    step()
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    result = {
        "case": args.case,
        "dtype": args.dtype,
        "seconds": statistics.median(seconds),
        "all": seconds,
        "work": WORKLOADS[args.case].work,
        "unit": WORKLOADS[args.case].unit,
        "versions": {package: version(package) for package in packages},
    }
    print(json.dumps(result), flush=True)
