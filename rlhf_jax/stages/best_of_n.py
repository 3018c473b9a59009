"""Stage `best_of_n`: N samples a prompt, scored from the states that sampling kept. The best one is the answer."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.sampling import samples_file
from rlhf_jax.sampling.samples_file import Sampling, sample_file
from rlhf_jax.stages.inputs import Input


@dataclasses.dataclass(frozen=True)
class Config:
    """The best-of-N policy (the study: N = 16 from the SFT model at temperature 0.7).

    Attributes:
      stage: "best_of_n".
      name: what the records call the model.
      sampling: what to sample. Its `reward` chooses.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("samples.jsonl",)

    stage: str
    name: str
    sampling: Sampling


def best(scores: list[float]) -> int:
    """Index of the highest score, the first of equals."""
    return int(np.argmax(scores))


def check(config: Config) -> None:
    """Raises UserError if no reward model is named."""
    if not config.sampling.reward:
        raise UserError("config.sampling.reward is empty, expected the folder of a reward run")


def check_here(config: Config) -> None:
    """As `samples_file.check_here`."""
    samples_file.check_here(config.sampling)


def also_reads(config: Config) -> Iterator[Input]:
    """The splits of the data."""
    yield Input("sampling.data", "data", config.sampling.data, tuple(config.sampling.prompts))


def run(config: Config, workdir: Path) -> None:
    """Writes `workdir/samples.jsonl` with `rewards` and `selected`. Resumes where it stopped.

    Raises:
      UserError: no reward model is named, or other bad input.
    """
    check(config)
    sample_file(config.sampling, workdir, config.name, select=best)
