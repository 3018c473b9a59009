"""Stage `generate`: N samples per prompt from one policy, as `samples.jsonl`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from rlhf_jax.sampling import samples_file
from rlhf_jax.sampling.samples_file import Sampling, sample_file
from rlhf_jax.stages.inputs import Input


@dataclasses.dataclass(frozen=True)
class Config:
    """Sampling from one policy.

    Attributes:
      stage: "generate".
      name: what the records call the model.
      sampling: what to sample.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("samples.jsonl",)

    stage: str
    name: str
    sampling: Sampling


def check_here(config: Config) -> None:
    """As `samples_file.check_here`."""
    samples_file.check_here(config.sampling)


def also_reads(config: Config) -> Iterator[Input]:
    """The splits of the data."""
    yield Input("sampling.data", "data", config.sampling.data, tuple(config.sampling.prompts))


def run(config: Config, workdir: Path) -> None:
    """Writes `workdir/samples.jsonl`. Resumes where it stopped.

    Raises:
      UserError: bad input, named.
    """
    sample_file(config.sampling, workdir, config.name)
