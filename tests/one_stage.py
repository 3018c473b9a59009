"""Runs one stage of a study that was run, as the study does: one_stage.py FOLDER STAGE."""

import json
import sys
from pathlib import Path

from rlhf_jax.errors import UserError
from rlhf_jax.stages.runner import run_stage


def main(study: str, stage: str) -> int:
    """Returns the exit status."""
    config = json.loads((Path(study) / "config.json").read_text())["stages"][stage]
    try:
        run_stage(config, Path(study) / stage, study=Path(study))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
