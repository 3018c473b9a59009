"""The command line: one stage of a study, or a pipeline of them.

    rlhf-jax --config=EXPERIMENT[:ARG] --workdir=DIR [--hosts=N] [--config.key=value ...]

--config is the experiment: the path of a config file, or the name of one that is shipped (`--help` lists them).
--config.key=value sets one of its keys. --workdir is the run's folder, and the same command again resumes the run.
--hosts is how many processes, by default one, run this command as one run (rlhf_jax/parallel/hosts.py).
`python -m rlhf_jax.main` is the same command.

Exit status: 0 done, 1 bad input, 130 stopped by Ctrl-C, 143 by SIGTERM, 134 another process is gone.
"""

import ast
import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from rlhf_jax.assets import cache_folder
from rlhf_jax.config import suggest, to_dict
from rlhf_jax.errors import UserError
from rlhf_jax.parallel import hosts
from rlhf_jax.stages.runner import STAGES, run_stage

PACKAGE = Path(__file__).parent
SHIPPED = PACKAGE / "configs"


def main(arguments: list[str]) -> int:
    """Runs what the command line `arguments` (the program's name first) ask for. Returns the exit status."""
    if "--help" in arguments:
        print(usage())
        return 0
    try:
        config, workdir, processes = read_flags(arguments)
        prepare_process(config.get("stage"))
        hosts.start(processes, {"config": config})
        with contextlib.nullcontext() if hosts.is_main() else _silent():
            run_stage(config, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return hosts.leave(1)
    except KeyboardInterrupt:
        print("stopped; run the same command to go on", file=sys.stderr)
        return hosts.leave(130)
    except Exception:
        if hosts.count() == 1:
            raise
        traceback.print_exc()  # here, since the interpreter would wait for the others first
        return hosts.leave(1, patience=hosts.HEARTBEAT + 10)  # a collective fails where another process is gone
    return 0


def command() -> None:
    """The console command `rlhf-jax`."""
    sys.exit(main(sys.argv))


def usage() -> str:
    """What `--help` prints: how to call the program, the stages, and the experiments that are shipped."""

    def listed(folder: Path, names: Iterable[str]) -> str:
        texts = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in names}
        docs = {name: ast.get_docstring(ast.parse(text)).splitlines()[0] for name, text in texts.items()}
        return "\n".join(f"  {name:<22}{doc.removeprefix(f'Stage `{name}`: ')}" for name, doc in docs.items())

    stages, experiments = listed(PACKAGE / "stages", STAGES), listed(SHIPPED, shipped())
    return f"{__doc__}\nStages:\n\n{stages}\n\nExperiments, for --config=NAME:\n\n{experiments}"


def shipped() -> list[str]:
    """Names of the experiments that come with the package, as `--config` takes them ("quickstart", "paper/ppo")."""
    files = sorted([*SHIPPED.glob("*.py"), *SHIPPED.glob("paper/*.py")])
    named = [path for path in files if "def get_config(" in path.read_text(encoding="utf-8")]
    return [path.relative_to(SHIPPED).with_suffix("").as_posix() for path in named]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hides everything that is printed, but not errors. Errors are."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def read_flags(arguments: list[str]) -> tuple[dict[str, Any], Path, int]:
    """The config as plain data, the workdir, and how many processes make up the run.

    Raises:
      UserError: a flag or key that does not exist, a value of the wrong type, no such config file, or a flag missing.
        An error inside the config file is left to its traceback.
    """
    arguments = _with_files(arguments)
    overrides = [argument for argument in arguments if re.match(r"--?(no)?config\.", argument)]
    config, *_ = _parse([argument for argument in arguments if argument not in overrides], positional=True)
    for override in overrides:
        _check_key(config, override)
    config, workdir, processes = _parse(arguments)
    return to_dict(config), workdir, processes


def prepare_process(stage: str | None) -> None:
    """Sets what jax reads from the environment when it is first imported. What the user has set stays.

    Compiled programs are kept in the user's cache folder, so a run that is resumed does not compile them again.
    """
    if STAGES.get(stage) == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # about torch, which is not needed
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder("xla")))
    flags.FLAGS.mark_as_parsed()  # Grain's processes ask for flags of its own, which keep their defaults


def _with_files(arguments: list[str]) -> list[str]:
    """`arguments` with the file of a shipped experiment where `--config` has its name. A file of that name wins."""

    def located(value: str) -> str:
        name, *argument = value.split(":", 1)
        file = SHIPPED / f"{name}.py"
        return value if Path(name).is_file() or name not in shipped() else ":".join([str(file), *argument])

    found = [re.sub(r"(?<=^--config=).+", lambda match: located(match[0]), word) for word in arguments]
    return [located(word) if before == "--config" else word for before, word in pairwise(["", *found])]


def _parse(arguments: list[str], positional: bool = False) -> tuple[ConfigDict, Path, int]:
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=arguments)
    workdir = flags.DEFINE_string("workdir", None, "", flag_values=values)
    processes = flags.DEFINE_integer("hosts", 1, "", flag_values=values)
    try:
        rest = values(arguments)[1:]
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    for flag in (config, workdir):
        if not values[flag.name].present:
            raise UserError(f"--{flag.name} is missing: rlhf-jax --config=EXPERIMENT --workdir=DIR")
    if rest and not positional:
        raise UserError(f"unexpected argument {rest[0]!r}; expected --config, --workdir, --hosts or --config.key=value")
    path = Path(config_flags.get_config_filename(values["config"]).partition(":")[0])
    if not path.is_file():
        near = suggest(path.with_suffix("").as_posix().removeprefix("configs/"), shipped())
        raise UserError(f"--config names {path}, which is neither a file nor a shipped experiment; {near}")
    if "://" in workdir.value:
        raise UserError(f"--workdir is {workdir.value}, expected a folder; mount the bucket to have one (docs/tpu.md)")
    return config.value, Path(workdir.value), processes.value


def _check_key(config: ConfigDict, override: str) -> None:
    node, where = config, "config"
    for key in override.lstrip("-").partition("=")[0].split(".")[1:]:
        if not isinstance(node, ConfigDict):
            raise UserError(f"{override}: {where} is {node!r} and has no keys")
        if key not in node:
            raise UserError(f"{override}: {where} has no key {key!r}; {suggest(key, node)}")
        node, where = node[key], f"{where}.{key}"


if __name__ == "__main__":
    sys.exit(main(sys.argv))
