"""What a chip can do: peak bf16 throughput, for MFU."""

import jax

# Dense bf16 TFLOP/s a device, by a part of `jax.Device.device_kind`, first match wins.
# Sources: Google Cloud TPU and NVIDIA data sheets (without sparsity).
PEAK_TFLOPS = (
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("TPU v6", 918.0),
    ("TPU v5p", 459.0),
    ("TPU v5 lite", 197.0),
    ("TPU v5e", 197.0),
    ("TPU v5", 459.0),
    ("TPU v4", 275.0),
)


def peak_flops(device: jax.Device) -> float | None:
    """Peak bf16 FLOP/s of one device; None where the chip is not in the table."""
    for part, tflops in PEAK_TFLOPS:
        if part in device.device_kind:
            return tflops * 1e12
    return None
