"""Limits of a single device, from its maker's data sheet."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip, which is one device of JAX.

    Attributes:
      memory: bytes of HBM that a program may use.
      flops: bfloat16 operations a second at the most.
      bandwidth: bytes a second between HBM and chip.
      interconnect: bytes a second that a ring over one axis of the chips' grid sends from a chip, both ways together.
    """

    memory: int
    flops: float
    bandwidth: float
    interconnect: float


# Memory: what libtpu 0.0.50's compiler says is available when a program needs more. Peak and bandwidth: Google's page
# on each generation, cloud.google.com/tpu/docs/v4, v5e, v5p, v6e (which has 1,600 GB/s on a newer copy). Interconnect:
# Austin et al., 2025, How to scale your model, part 2, the bidirectional bandwidth of a link.
CHIPS = {
    "v4": Chip(round(30.75 * GIB), 275e12, 1.2e12, 9e10),
    "v5e": Chip(round(15.75 * GIB), 197e12, 8.19e11, 9e10),
    "v5p": Chip(round(95.73 * GIB), 459e12, 2.765e12, 1.8e11),
    "v6e": Chip(round(31.24 * GIB), 918e12, 1.64e12, 1.8e11),
}

# By `jax.Device.device_kind`, of TPUs as jax._src.tpu_info knows them. Of GPUs the SXM boards, dense: NVIDIA's data
# sheets of H100 and H200 say 1,979 TFLOPS "with sparsity", which is twice that; the A100's says 312 and 624.
PEAK_FLOPS = {
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v5p": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU v6e": CHIPS["v6e"].flops,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989.5e12,
    "NVIDIA H200": 989.5e12,
}
"""Bfloat16 operations a second of a device at the most, by its kind; a kind that is not here has no known peak."""
