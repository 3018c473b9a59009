"""TPU topologies, and the devices of one that programs are compiled for."""

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator

import jax

from rlhf_jax.errors import UserError
from rlhf_jax.parallel.chips import CHIPS, Chip

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBIC = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
TOPOLOGIES = {
    f"{name}:{grid}": chip for name, chip in CHIPS.items() for grid in (FLAT if name in ("v5e", "v6e") else CUBIC)
}
OPTIONS = {"v4": {"chip_config_name": "megacore"}}
"""Of `get_topology_desc`, by generation, so that a chip is one device."""


def devices(topology: str) -> tuple[Chip, list[jax.Device]]:
    """The chip and the devices, up to 256, of a topology ("v5e:2x4", "v5p:2x2x1") that need not be here.

    Raises:
      UserError: it is not in `TOPOLOGIES`, or libtpu is not installed.
    """
    if topology not in TOPOLOGIES:
        raise UserError(f"--topology is {topology!r}; expected one of {', '.join(TOPOLOGIES)}")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, which compiles for TPUs, is not installed; pip install -e '.[tpu]' brings it")
    from jax.experimental import topologies

    chip, options = TOPOLOGIES[topology], OPTIONS.get(topology.partition(":")[0], {})
    # No TPU is touched, so neither does another process that uses libtpu matter, nor what the cloud says of this host.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    with quiet():
        described = topologies.get_topology_desc(topology_name=topology, platform="tpu", **options)
    return chip, list(described.devices)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops all that libraries write to stdout and stderr inside. After an error it is on stderr."""
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
