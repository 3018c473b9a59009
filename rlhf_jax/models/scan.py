"""Runs the blocks of a network: one by one, or one compiled body over a group of them.

Unrolled, a program holds every block and takes as long to compile as the network is deep. Scanned, it holds one body
for each run of blocks that compute the same, and those blocks' parameters are one array each (`file_layout`). A run
ends at the trunk's edge, where the attention's window changes, and before the last block, whose prompt nobody reads.
"""

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import jax

from rlhf_jax.config import may_change
from rlhf_jax.models.architecture import Architecture
from rlhf_jax.parallel import file_layout

type Step = Callable[[Any, Any, Any], tuple[Any, Any]]
"""`(parameters of a block, carry, its own input) -> (carry, its own output)`."""

REMAT: dict[str, Callable[..., bool]] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "projections": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Storage, execution and differentiation of a network's blocks.

    Attributes:
      scan: True to store blocks that compute the same as one array per parameter and compile them as one body. Compile
        time then does not grow with depth. On a CPU the program is slower for it. Files do not depend on it, and a run
        may change it.
      remat: the part of a block that a backward pass computes again: "none" nothing, "projections" all but the results
        of products with weights, "full" everything. A run may change it.
      quantize_trunk: "int8" stores the weights of the trunk's blocks as int8, with a scale for each output. Or "none".
    """

    scan: bool = may_change(default=False)
    remat: Literal["none", "projections", "full"] = may_change(default="none")
    quantize_trunk: Literal["none", "int8"] = "none"


UNROLLED = Blocks()


def runs(architecture: Architecture, frozen_layers: int, scan: bool) -> list[range]:
    """The blocks, in order, as the runs that `through` goes through. Each block is a run of its own unless scanned."""
    last = architecture.layers - 1
    windows = architecture.windows or (None,) * architecture.layers
    cuts = {0, frozen_layers, last, architecture.layers}
    cuts |= {i for i in range(1, last) if not scan or windows[i] != windows[i - 1]}
    return [range(first, end) for first, end in pairwise(sorted(cuts))]


def through(layers: dict[str, Any], run: range, step: Step, carry: Any, inputs: Any = None) -> tuple[Any, Any]:
    """Applies `step` to each block of a run in turn, and returns `(carry, outputs)`.

    `layers` are the parameters by the names of runs. `carry` goes into the first block, and from each into the next.
    `inputs` is a pytree with an input per block. It and the outputs have the blocks as leading axis.
    """
    parameters = layers[file_layout.group_name(run)]
    if len(run) > 1:
        return jax.lax.scan(lambda carry, x: step(x[0], carry, x[1]), carry, (parameters, inputs))
    carry, output = step(parameters, carry, jax.tree.map(lambda x: x[0], inputs))
    return carry, jax.tree.map(lambda x: x[None], output)


def rematerialised(step: Step, remat: str, run: range) -> Step:
    """`step` with what a backward pass needs saved as `remat` says (`Blocks`)."""
    if remat == "none":
        return step
    return jax.checkpoint(step, policy=REMAT[remat], prevent_cse=len(run) == 1)
