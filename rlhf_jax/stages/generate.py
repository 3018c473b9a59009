"""Stage `generate`: N samples a prompt from one policy, as `samples.jsonl`. The Python call of that name.

The module has another name than both, or importing it would put it where the package offers the call.
"""

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
