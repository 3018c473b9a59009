"""What a run is asked to show of itself beyond its files (docs/watching.md)."""

from __future__ import annotations

import dataclasses
import importlib.util

from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Watch:
    """The settings; the defaults are those of a run that nobody watches.

    Attributes:
      profile_steps: the first and the last step of a profile; () for none.
      signal_steps: how many steps a profile has that SIGUSR1 asks for.
      wandb_project: the project at Weights and Biases that the metrics go to as well; "" for none.
    """

    profile_steps: tuple[int, ...] = ()
    signal_steps: int = 3
    wandb_project: str = ""

    def check(self) -> None:
        """Raises UserError for steps that are none, or if the package of a chosen service is missing."""
        steps = self.profile_steps
        if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
            raise UserError(f"config.watch.profile_steps is {steps}, expected () or a first and a last step")
        if self.signal_steps < 1:
            raise UserError(f"config.watch.signal_steps is {self.signal_steps}, expected 1 or more")
        if self.wandb_project and importlib.util.find_spec("wandb") is None:
            raise UserError(
                f"config.watch.wandb_project is {self.wandb_project!r} and wandb is not installed; "
                "pip install -e '.[wandb]' brings it"
            )
