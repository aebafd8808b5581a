"""What chips can do: the one table behind MFU, the plan's roofline and its memory check.

Sources: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" (peak bf16, memory
bandwidth, half the bidirectional interconnect bandwidth a chip, data-center network of a host
or pod over its chips); NVIDIA's data sheets of the A100, H100 and H200 (peak bf16 without
sparsity, memory bandwidth, half the bidirectional NVLink bandwidth) and of the DGX and HGX
systems around them (one NIC a GPU: 200 Gb/s with the A100, 400 Gb/s since). Memory is what a
program can have: libtpu's own limit, and what CUDA reports as a device's total.
"""

import dataclasses
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
      name: as in a plan's topology, `v5e` or `h200`.
      kinds: parts of `jax.Device.device_kind` that mean this chip.
      flops: dense bf16 FLOP/s.
      memory: bytes that a program can have.
      memory_bandwidth: bytes/s of the main memory.
      link_bandwidth: bytes/s one chip sends to its neighbours (ICI, NVLink), all links busy.
      network_bandwidth: bytes/s one chip sends beyond them: other slices, other hosts.
      clock: Hz of a TPU's core, which turns the compiler's cycles into time; 0 for GPUs.
    """

    name: str
    kinds: tuple[str, ...]
    flops: float
    memory: int
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    clock: float = 0.0

    @property
    def is_tpu(self) -> bool:
        """Whether it is a TPU."""
        return self.clock > 0


def _chip(
    name: str,
    kinds: tuple[str, ...],
    tflops: float,
    memory_gib: float,
    memory_gb_s: float,
    link_gb_s: float,
    network_gb_s: float,
    ghz: float = 0.0,
) -> Chip:
    bandwidths = (memory_gb_s * 1e9, link_gb_s * 1e9, network_gb_s * 1e9)
    return Chip(name, kinds, tflops * 1e12, int(memory_gib * GIB), *bandwidths, ghz * 1e9)


# The first whose kinds match a device wins: `TPU v5` alone is a v5p.
CHIPS = (
    _chip("h200", ("H200",), 989, 139.8, 4800, 450, 50),
    _chip("h100-pcie", ("H100 PCIe",), 756, 79.1, 2000, 300, 50),
    _chip("h100", ("H100",), 989, 79.1, 3350, 450, 50),
    _chip("a100", ("A100",), 312, 79.1, 2039, 300, 25),
    _chip("v6e", ("TPU v6",), 918, 31.25, 1638, 400, 12.5, 1.75),
    _chip("v5e", ("TPU v5 lite", "TPU v5e"), 197, 15.75, 819, 200, 3.125, 1.5),
    _chip("v5p", ("TPU v5",), 459, 95.74, 2765, 600, 6.25, 1.75),
    _chip("v4", ("TPU v4",), 275, 30.75, 1228, 300, 6.25, 1.05),
)


def find_chip(device_kind: str) -> Chip | None:
    """The chip that a `jax.Device.device_kind` names; None where the table has none."""
    for chip in CHIPS:
        if any(part in device_kind for part in chip.kinds):
            return chip
    return None


def peak_flops(device: Any) -> float | None:
    """Peak bf16 FLOP/s of one `jax.Device`; None where the chip is not in the table."""
    chip = find_chip(device.device_kind)
    return chip.flops if chip else None
