"""Stage `best_of_n`: N samples a prompt, scored from the states that sampling kept. The best one is the answer."""

import dataclasses
from pathlib import Path

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.sampling.samples_file import Sampling, sample_file


@dataclasses.dataclass(frozen=True)
class Config:
    """The best-of-N policy (the study: N = 16 from the SFT model at temperature 0.7).

    Attributes:
      stage: "best_of_n".
      name: what the records call the model.
      sampling: what to sample. Its `reward` chooses.
    """

    stage: str
    name: str
    sampling: Sampling


def best(scores: list[float]) -> int:
    """Index of the highest score, the first of equals."""
    return int(np.argmax(scores))


def run(config: Config, workdir: Path) -> None:
    """Writes `workdir/samples.jsonl` with `rewards` and `selected`. Resumes where it stopped.

    Raises:
      UserError: no reward model is named, or other bad input.
    """
    if not config.sampling.reward:
        raise UserError("config.sampling.reward is empty, expected the folder of a reward run")
    sample_file(config.sampling, workdir, config.name, select=best)
