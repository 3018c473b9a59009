"""One stage of a study that was run, alone: one_stage.py:FOLDER,STAGE."""

import json
from pathlib import Path

from ml_collections import ConfigDict


def get_config(argument: str) -> ConfigDict:
    """The stage's config as the study's config.json has it, with the study's folder in its paths."""
    study, _, stage = argument.rpartition(",")
    text = (Path(study) / "config.json").read_text().replace("{workdir}", study)
    return ConfigDict(json.loads(text)["stages"][stage], sort_keys=False)
