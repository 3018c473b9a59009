"""Which of a run's checkpoints is the best by a metric of its evaluations, and which one later stages load."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Literal

from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Selection:
    """The setting, in the config of the run that writes the checkpoints.

    Attributes:
      metric: ranks the checkpoints, by its name in `metrics.jsonl` ("eval/validation/loss"). Each evaluation that
        improves on it is saved, and stays beside the latest checkpoints. "" keeps the latest alone.
      better: "lower" or "higher".
      load: which one the stages that read this run load, "latest" or "best".
    """

    metric: str = ""
    better: Literal["lower", "higher"] = "lower"
    load: Literal["latest", "best"] = "latest"

    def check(self, measured: Collection[str]) -> None:
        """Raises UserError unless the metric is one that the run measures, and there is one if the best is loaded."""
        if self.metric and self.metric not in measured:
            names = ", ".join(measured)
            raise UserError(f"config.selection.metric is {self.metric!r}, expected '' or one of {names}")
        if self.load == "best" and not self.metric:
            raise UserError("config.selection.load is 'best' and config.selection.metric is '', expected a metric")

    def improves(self, metrics: Mapping[str, float], best: float | None) -> bool:
        """True if a step's metrics hold a finite value of the metric that is better than the best so far."""
        value = metrics.get(self.metric, math.nan)
        if not math.isfinite(value):
            return False
        return best is None or (value < best if self.better == "lower" else value > best)
