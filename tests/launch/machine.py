"""A folder to launch from, with executables that note how they were called, and the run that is launched in tests."""

import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

RUN = ["--config=configs/ppo.py:runs/my study", "--workdir=runs/ppo/one", "--config.title=it's $HOME; two  spaces"]
PROGRAM = ["-m", "rlhf_jax.main", *RUN, "--hosts=1"]
FIT_CHECK = [".venv/bin/python", "launch/aot_check.py", "--topology=v5e:2x4", RUN[0], RUN[2]]
PLACE = ["--project=p", "--zone=us-west4-a"]
TPU = {"PROJECT": "p", "ZONE": "us-west4-a", "NAME": "chips", "TOPOLOGY": "v5e:2x4", "BUCKET": "results"}
GKE = {**TPU, "IMAGE": "registry/image:1"}
STATE = ["gcloud", "compute", "tpus", "queued-resources", "describe", "chips", *PLACE, "--format=value(state.state)"]

NOTE = """#!/usr/bin/env bash
printf '%s\\0' "$(basename "$0")" "$@" >>"$CALLS"
printf '\\n\\0' >>"$CALLS"
"""


class Machine:
    """A copy of `launch/` in `folder`, a PATH on which the commands that were `provide`d come first, and variables.

    `calls` are the words of every call of such a command so far, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = folder / "bin"
        self._bin.mkdir()
        self._calls = folder / "calls"
        shutil.copytree(ROOT / "launch", folder / "launch")
        path = f"{self._bin}{os.pathsep}{os.environ['PATH']}"
        self.variables = {"PATH": path, "HOME": str(folder), "CALLS": str(self._calls), "POLL_SECONDS": "0"}

    def provide(self, name: str, script: str = "") -> None:
        """A command called `name` that notes its words and then does what `script` says."""
        path = self._bin / name
        path.write_text(NOTE + script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> list[list[str]]:
        if not self._calls.exists():
            return []
        return [call.split("\0")[:-1] for call in self._calls.read_text().split("\n\0")[:-1]]

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.variables, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def dry_run(self, *command: str, **variables: str) -> list[list[str]]:
        """The words of the commands that a dry run prints, after making sure that it ran none of them."""
        before = len(self.calls)
        result = self.run(*command, DRY_RUN="1", **variables)
        assert (result.returncode, result.stderr) == (0, "")
        assert len(self.calls) == before
        return [shlex.split(line) for line in result.stdout.splitlines()]
