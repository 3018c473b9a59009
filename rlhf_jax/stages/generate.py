"""Stage `generate`: N samples per prompt from one policy, as `samples.jsonl`."""

import dataclasses
from pathlib import Path

from rlhf_jax.sampling.samples_file import Sampling, sample_file


@dataclasses.dataclass(frozen=True)
class Config:
    """Sampling from one policy.

    Attributes:
      stage: "generate".
      name: what the records call the model.
      sampling: what to sample.
    """

    stage: str
    name: str
    sampling: Sampling


def run(config: Config, workdir: Path) -> None:
    """Writes `workdir/samples.jsonl`. Resumes where it stopped.

    Raises:
      UserError: bad input, named.
    """
    sample_file(config.sampling, workdir, config.name)
