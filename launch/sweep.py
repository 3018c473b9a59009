"""A sweep: one config with some of its keys varied, each combination a run in its own folder.

    python -m launch.sweep --config=configs/sweeps/kl.py --workdir=runs/kl                  # here, one after another
    LAUNCHER="launch/slurm.sh" python -m launch.sweep --config=... --workdir=runs/kl        # through another launcher
    DRY_RUN=1 python -m launch.sweep --config=... --workdir=runs/kl                         # print the commands only

The config is a `Sweep`. Its keys can be set on the command line as those of any config (--config.draws=8). $LAUNCHER is
what the arguments of a run are given to: this Python's `-m rlhf_jax.main` unless set, else a script of this folder with
its verb and variables. The configs of all runs are checked before the first one starts.

A run whose command ended with status 0 has that command in `launched.txt` in its folder, and the same sweep again skips
it: with a launcher that waits (the default, `launch/tpu_vm.sh run`) it is finished, with one that submits it was handed
over, and it is that system that starts it again. Delete the file to have it launched once more. A run that failed does
not keep the next ones from running. One that was stopped does.

Exit status: 0 every run was launched. 1 bad input, or runs that failed, which are named. 130 and 143 stopped.
"""

import dataclasses
import itertools
import math
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from rlhf_jax.config import CountOrZero, Number, Seed, parse
from rlhf_jax.errors import UserError
from rlhf_jax.main import read_flags
from rlhf_jax.stages.runner import check

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A key and the values it takes.

    Attributes:
      key: as after `--config.` on the command line.
      values: at least one.
    """

    key: str
    values: list[Any]


@dataclasses.dataclass(frozen=True)
class Range:
    """A key and the interval its values are drawn from, rounded to three significant digits.

    Attributes:
      key: as after `--config.` on the command line.
      low: the lower end.
      high: the upper end.
      scale: "linear" draws uniformly, "log" draws the logarithm uniformly.
    """

    key: str
    low: Number
    high: Number
    scale: Literal["linear", "log"]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What to run.

    Attributes:
      config: the config that is varied, as for `--config`.
      arguments: what follows the config's colon, in turn. Every combination runs with each. (): the config as it is.
      axes: the keys that vary, each a `Choice` or, in a random search, a `Range`.
      draws: 0 for the grid, every combination of the choices. Else how many combinations are drawn. More of them keep
        the former ones.
      draw_seed: of the draws.
      seeds: values of `config.seed`. Every combination runs with each. None: the config's own.
    """

    config: str
    arguments: tuple[str, ...]
    axes: tuple[Choice | Range, ...]
    draws: CountOrZero
    draw_seed: Seed
    seeds: tuple[Seed, ...]


def combinations(sweep: Sweep) -> list[dict[str, Any]]:
    """The values by key of every run, the seeds of a combination side by side.

    Raises:
      UserError: nothing varies, or a key twice. A grid over a range. A range that is none. An axis without values.
    """
    keys = [axis.key for axis in sweep.axes]
    if not keys and not sweep.seeds and not sweep.arguments:
        raise UserError("config.arguments, config.axes and config.seeds are empty; expected something that varies")
    for axis in sweep.axes:
        if keys.count(axis.key) > 1 or (axis.key == "seed" and sweep.seeds):
            raise UserError(f"config.axes: {axis.key!r} varies twice (config.seeds is the axis of 'seed')")
        if isinstance(axis, Choice) and not axis.values:
            raise UserError(f"config.axes: {axis.key!r} has no values")
        if isinstance(axis, Range):
            if sweep.draws == 0:
                raise UserError(f"config.axes: {axis.key!r} is a range, which a grid cannot cover; set config.draws")
            if not axis.low < axis.high or (axis.scale == "log" and axis.low <= 0):
                raise UserError(f"config.axes: {axis.key!r} has no {axis.scale} range from {axis.low} to {axis.high}")
    if sweep.draws == 0:
        values = itertools.product(*(axis.values for axis in sweep.axes))
    else:
        values = ([_draw(axis, sweep.draw_seed, index) for axis in sweep.axes] for index in range(sweep.draws))
    seeds = [{"seed": seed} for seed in sweep.seeds] or [{}]
    return [dict(zip(keys, point, strict=True)) | seed for point in values for seed in seeds]


def runs(sweep: Sweep, workdir: Path) -> dict[str, list[str]]:
    """The arguments of `rlhf_jax.main` of every run, by the name of its folder below `workdir`, in order.

    A name is made of the argument, and of the last part of each key, or of all of it where two keys end alike, and its
    value: `tldr_opt125m-kl_coef_0.05-seed_0`. A combination that was drawn twice is one run.

    Raises:
      UserError: as `combinations`. The config does not have a key, or not for such a value. Its stage does not take
        it. Or two runs that would share a folder.
    """
    keys = [axis.key for axis in sweep.axes]
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: end if last.count(end) == 1 and end != "seed" else key for key, end in zip(keys, last, strict=True)}
    found: dict[str, list[str]] = {}
    for argument, values in itertools.product(sweep.arguments or ("",), combinations(sweep)):
        words = [argument, *(f"{short.get(key, key)}_{value}" for key, value in values.items())]
        name = "-".join(re.sub(r"[^\w.+-]+", "_", word) for word in words if word)
        overrides = [f"--config.{key}={value}" for key, value in values.items()]
        config = f"{sweep.config}:{argument}" if argument else sweep.config
        arguments = [f"--config={config}", f"--workdir={workdir / name}", *overrides]
        if found.setdefault(name, arguments) != arguments:
            raise UserError(f"two runs would share the folder {workdir / name}: {found[name]} and {arguments}")
        run, folder, _ = read_flags(["sweep", *arguments])
        check(run, folder)
    return found


def launch(found: dict[str, list[str]], workdir: Path, launcher: list[str]) -> int:
    """Launches the runs that were not yet, in turn. Returns the exit status."""
    failed = []
    for index, (name, arguments) in enumerate(found.items(), start=1):
        launched, command = workdir / name / "launched.txt", shlex.join(arguments) + "\n"
        if launched.is_file() and launched.read_text() == command:
            print(f"[{index}/{len(found)}] {name}: was launched before", flush=True)
            continue
        print(f"[{index}/{len(found)}] {name}", flush=True)
        status = execute([*launcher, *arguments])
        if status in STOPPED:
            print(f"stopped in {name}; run the same command to go on", file=sys.stderr)
            return status
        if status == 0:
            launched.parent.mkdir(parents=True, exist_ok=True)
            launched.write_text(command)
        else:
            failed.append(f"{name} (status {status})")
    if failed:
        print(f"{len(failed)} of {len(found)} runs failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def execute(command: list[str]) -> int:
    """The exit status of `command`, 128 and the signal where one ended it.

    SIGTERM is passed on and counts as the status even where the command ended well. Ctrl-C reaches the command by
    itself. Here it is only kept from ending this process first.
    """
    process = None
    signals = []

    def stop(number: int, frame: object) -> None:
        signals.append(number)
        if number == signal.SIGTERM and process is not None:
            process.terminate()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen(command)
        if signals:  # while it was being started
            process.terminate()
        status = process.wait()
    except OSError as error:
        raise UserError(f"the launcher {command[0]} cannot be started: {error.strerror}") from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if signals:
        return 128 + signals[0]
    return status if status >= 0 else 128 - status


def main(arguments: list[str]) -> int:
    """Runs the sweep that the command line `arguments` (the program's name first) name. Returns the exit status."""
    if "--help" in arguments:
        print(__doc__)
        return 0
    launcher = shlex.split(os.environ.get("LAUNCHER", "")) or [sys.executable, "-m", "rlhf_jax.main"]
    try:
        config, workdir, _ = read_flags(arguments)
        found = runs(parse(Sweep, config), workdir)
        dry = os.environ.get("DRY_RUN", "")
        if dry not in ("", "1"):
            raise UserError(f"DRY_RUN is {dry!r}, expected 1, or not to be set")
        if not dry:
            return launch(found, workdir, launcher)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for run in found.values():
        print(shlex.join([*launcher, *run]))
    return 0


def _draw(axis: Choice | Range, seed: int, index: int) -> Any:
    """The value of an axis in the combination of that index. It depends on nothing else."""
    source = random.Random(f"{seed}/{index}/{axis.key}")
    if isinstance(axis, Choice):
        return source.choice(axis.values)
    if axis.scale == "log":
        return float(f"{math.exp(source.uniform(math.log(axis.low), math.log(axis.high))):.3g}")
    return float(f"{source.uniform(axis.low, axis.high):.3g}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
