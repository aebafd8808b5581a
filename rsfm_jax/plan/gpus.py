"""NVIDIA GPUs as XLA wants them described (its `GpuTargetConfigProto`, as text).

Numbers: NVIDIA's CUDA programming guide (limits of compute capability 8.0 and 9.0) and the data
sheets of the SXM cards.
"""

import dataclasses

from rsfm_jax.errors import UserError
from rsfm_jax.sharding.hardware import Chip

GPUS_A_HOST = 8
CUDNN_VERSION = 91300  # 9.13, of the CUDA 13 wheels that JAX asks for


@dataclasses.dataclass(frozen=True)
class _Gpu:
    capability: tuple[int, int]
    cores: int
    shared_kib: int  # of one core; one block may have 1 KiB less
    l2_mib: int
    clock_ghz: float
    feature: str


_GPUS = {
    "h200": _Gpu((9, 0), 132, 228, 60, 1.98, "ACCELERATED_FEATURES"),
    "h100": _Gpu((9, 0), 132, 228, 50, 1.98, "ACCELERATED_FEATURES"),
    "h100-pcie": _Gpu((9, 0), 114, 228, 50, 1.755, "ACCELERATED_FEATURES"),
    "a100": _Gpu((8, 0), 108, 164, 40, 1.41, "NONE"),
}


def compute_capability(chip: Chip) -> tuple[int, int]:
    """(major, minor) of a GPU of the hardware table."""
    return _gpu(chip).capability


def gpu_description(chip: Chip) -> str:
    """The text that describes a GPU of the hardware table to XLA's compiler."""
    gpu = _gpu(chip)
    major, minor = gpu.capability
    feature = "" if gpu.feature == "NONE" else f"feature_extension: {gpu.feature}"
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_block_optin: {(gpu.shared_kib - 1) * 1024}
  shared_memory_per_core: {gpu.shared_kib * 1024}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {128 if major == 9 else 64}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(chip.memory_bandwidth)}
  l2_cache_size: {gpu.l2_mib * 2**20}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {chip.memory}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {major} minor: {minor} {feature} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: {CUDNN_VERSION // 10000} minor: {CUDNN_VERSION // 100 % 100} }}
runtime_version {{ major: 13 }}
device_description_str: "NVIDIA {chip.kinds[0]}"
"""


def _gpu(chip: Chip) -> _Gpu:
    if chip.name not in _GPUS:
        raise UserError(
            f"--topology={chip.name}: XLA's description of it is missing in plan/gpus.py"
        )
    return _GPUS[chip.name]
