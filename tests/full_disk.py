"""Runs `killed_study.py` on a disk that is always too small: full_disk.py COPY SAID. In a name space of its own.

The disk grows by a little each time that the study has ended with a sentence about it, which goes into the file SAID.
When the study is complete it is copied to COPY.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.test_kills import ROOT, command, environment

SENTENCE = r"error: (.*) (?:cannot|could not) be written.*|error: the checkpoint of step \d+ needs ([\d,]+) bytes in .*"
LEAST = 16  # KiB that the disk grows by at first


def main(copy: str, said: str) -> int:
    """Returns the exit status."""
    with tempfile.TemporaryDirectory() as disk, open(said, "w") as sentences:
        size, growth, before = LEAST, LEAST, None
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "small", disk], check=True)
        while True:
            study = Path(disk) / "study"
            ran = subprocess.run(command(study), cwd=ROOT, env=environment(), capture_output=True, text=True)
            if ran.returncode == 0:
                break
            last = ran.stderr.splitlines()[-1]
            print(f"{size} KiB: {last}", file=sentences, flush=True)
            found = re.fullmatch(SENTENCE, last)
            if ran.returncode != 1 or found is None or "Traceback" in ran.stderr:
                print(ran.returncode, ran.stderr[-4000:])
                return 1
            growth = 2 * growth if found[1] == before else LEAST
            before = found[1]
            size += growth
            subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
        shutil.copytree(study, copy)
        subprocess.run(["umount", disk], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
