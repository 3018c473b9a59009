"""TPU generations, what their chips can do, and the devices of a topology that programs are compiled for."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import jax

from rlhf_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, which is one device of JAX.

    Attributes:
      memory: bytes of HBM that a program may use.
      flops: bfloat16 operations a second at the most.
      bandwidth: bytes a second between HBM and chip.
      interconnect: bytes a second that a ring over one axis of the chips' grid sends from a chip, both ways together.
      options: of `get_topology_desc`, so that a chip is one device.
    """

    memory: int
    flops: float
    bandwidth: float
    interconnect: float
    options: Mapping[str, str] = MappingProxyType({})


# Memory: what libtpu 0.0.50's compiler says is available when a program needs more. Peak and bandwidth: Google's page
# on each generation, cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. Interconnect: Austin et al., 2025, How to scale your
# model, part 2, the bidirectional bandwidth of a link.
CHIPS = {
    "v4": Chip(round(30.75 * GIB), 275e12, 1.2e12, 9e10, MappingProxyType({"chip_config_name": "megacore"})),
    "v5e": Chip(round(15.75 * GIB), 197e12, 8.19e11, 9e10),
    "v5p": Chip(round(95.73 * GIB), 459e12, 2.765e12, 1.8e11),
    "v6e": Chip(round(31.24 * GIB), 918e12, 1.64e12, 1.8e11),
}
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBIC = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
TOPOLOGIES = {
    f"{name}:{grid}": chip for name, chip in CHIPS.items() for grid in (FLAT if name in ("v5e", "v6e") else CUBIC)
}


def devices(topology: str) -> tuple[Chip, list[jax.Device]]:
    """The chip and the devices of a topology, up to 256, of which none has to be here.

    Args:
      topology: generation and grid, e.g. "v5e:2x4", "v5p:2x2x1".

    Raises:
      UserError: it is not in `TOPOLOGIES`, or libtpu is not installed.
    """
    if topology not in TOPOLOGIES:
        raise UserError(f"--topology is {topology!r}; expected one of {', '.join(TOPOLOGIES)}")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, which compiles for TPUs, is not installed; pip install -e '.[tpu]' brings it")
    from jax.experimental import topologies

    chip = TOPOLOGIES[topology]
    # No TPU is touched, so neither does another process that uses libtpu matter, nor what the cloud says of this host.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    with quiet():
        described = topologies.get_topology_desc(topology_name=topology, platform="tpu", **chip.options)
    return chip, list(described.devices)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What libraries write to stdout and stderr in here is dropped, unless an error leaves it: then it is on stderr."""
    with tempfile.TemporaryFile() as said:
        kept = [os.dup(1), os.dup(2)]
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            for target, saved in zip((1, 2), kept, strict=True):
                os.dup2(saved, target)
                os.close(saved)
            if failed:
                said.seek(0)
                os.write(2, said.read())
