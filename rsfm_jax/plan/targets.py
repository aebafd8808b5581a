"""Devices that are not there: TPU slices through libtpu, GPUs through the CUDA plugin.

`v5e:8x8` is a slice of 64 chips and `2xv5e:8x8` two of them, `h200:16` two hosts of eight GPUs,
`cpu:8` eight of the processor's fake devices. Neither a chip nor a driver is needed.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax._src.cudnn import fused_attention_stablehlo as fused
from jax.experimental import topologies

from rsfm_jax.errors import UserError
from rsfm_jax.plan.gpus import (
    CUDNN_VERSION,
    GPUS_A_HOST,
    compute_capability,
    gpu_description,
)
from rsfm_jax.sharding.hardware import CHIPS, Chip

PATTERN = re.compile(r"(?:(\d+)x)?([a-z][\w-]*):(\d+(?:x\d+)*)")
EXAMPLES = "v5e:8x8, 2xv5e:16x16, v5p:4x4x4, v6e:16x16, h200:8 or cpu:8"
INSTALL = 'pip install -e ".[plan]"'
TPU_DIMENSIONS = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}
# Chips of a slice that one host drives, as far as the slice reaches.
TPU_HOST = (2, 2, 1)


@dataclasses.dataclass(frozen=True)
class Target:
    """Hardware to compile for.

    Attributes:
      text: as it was asked for.
      chip: its row of the hardware table; None for the processor.
      shape: chips along each direction of a slice; (count,) for GPUs and the processor.
      slices: how many of them.
    """

    text: str
    chip: Chip | None
    shape: tuple[int, ...]
    slices: int = 1


def parse_target(text: str) -> Target:
    """The target that `--topology` names; raises `UserError` with examples."""
    found = PATTERN.fullmatch(text)
    if not found:
        raise UserError(f"--topology={text}: unknown form; write {EXAMPLES}")
    slices, name, sizes = found.groups()
    shape = tuple(int(size) for size in sizes.split("x"))
    chips = {chip.name: chip for chip in CHIPS}
    if name != "cpu" and name not in chips:
        raise UserError(f"--topology={text}: unknown chip; choose from {', '.join(chips)}, cpu")
    target = Target(text, chips.get(name), shape, int(slices or 1))
    is_tpu = target.chip is not None and target.chip.is_tpu
    if is_tpu and len(shape) != TPU_DIMENSIONS[name]:
        raise UserError(f"--topology={text}: {name} slices have {TPU_DIMENSIONS[name]} dimensions")
    if 0 in shape or target.slices == 0:
        raise UserError(f"--topology={text}: needs at least one device")
    if not is_tpu and (len(shape) > 1 or slices):
        raise UserError(f"--topology={text}: {name} takes one number, as in {name}:8")
    if not is_tpu and name != "cpu" and shape[0] > GPUS_A_HOST and shape[0] % GPUS_A_HOST:
        raise UserError(f"--topology={text}: more than one host is a multiple of {GPUS_A_HOST}")
    return target


def without_devices(target: Target) -> None:
    """Keeps JAX on the processor and its plugins from looking for hardware; to be called first."""
    jax.config.update("jax_platforms", "cpu")
    if target.chip is None:
        jax.config.update("jax_num_cpu_devices", target.shape[0])
    os.environ.update(
        JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1",
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE="v5e-16",  # any: silences a look-up
        TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )
    for name in ("TPU_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL", "TF_CPP_MIN_LOG_LEVEL"):
        os.environ.setdefault(name, "3")


def devices(target: Target) -> list[Any]:
    """The target's devices; raises `UserError` where the plugin is missing or refuses it."""
    if target.chip is None:
        return jax.devices("cpu")
    platform, arguments = _tpu(target) if target.chip.is_tpu else _cuda(target)
    try:
        topology = topologies.get_topology_desc(platform=platform, **arguments)
    except Exception as error:
        line = " ".join(str(error).split())
        if "divisible" in line or "INVALID_ARGUMENT" in line:
            raise UserError(f"--topology={target.text}: {line}") from error
        raise UserError(
            f"--topology={target.text}: no {platform} compiler here; {INSTALL} brings it "
            f"({line[:200]})"
        ) from error
    return list(topology.devices)


def islands(target: Target, devices: list[Any]) -> np.ndarray:
    """[devices] numbers of what the fast links join: slices of TPUs, hosts of GPUs."""
    if target.chip is None:
        return np.zeros(len(devices), int)
    name = "slice_index" if target.chip.is_tpu else "process_index"
    return np.array([getattr(device, name, None) or 0 for device in devices])


def _tpu(target: Target) -> tuple[str, dict[str, Any]]:
    assert target.chip is not None
    shape = "x".join(map(str, target.shape))
    arguments: dict[str, Any] = {"topology_name": f"{target.chip.name}:{shape}"}
    sizes = (*target.shape, 1, 1)[:3]
    arguments["chips_per_host_bounds"] = tuple(
        min(size, bound) for size, bound in zip(sizes, TPU_HOST, strict=True)
    )
    if target.chip.name == "v4":
        arguments["chip_config_name"] = "megacore"  # one device a chip, as on v5p
    if target.slices > 1:
        arguments["num_slices"] = target.slices
    return "tpu", arguments


def _cuda(target: Target) -> tuple[str, dict[str, Any]]:
    assert target.chip is not None
    (count,) = target.shape
    hosts = max(count // GPUS_A_HOST, 1)
    layout = f"1x{hosts}x{count // hosts}"  # slices x hosts x GPUs of a host
    return "cuda", {
        "topology_name": layout,
        "topology": layout,
        "target_config": gpu_description(target.chip),
    }


def compiler_options(target: Target) -> dict[str, Any]:
    """What has to be off where there is nothing to measure on."""
    if target.chip is None or target.chip.is_tpu:
        return {}
    # Triton's products are chosen by timing them.
    return {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


@contextmanager
def cudnn_of(target: Target) -> Iterator[None]:
    """Lets JAX trace cuDNN attention for a GPU that it cannot ask for its version."""
    if target.chip is None or target.chip.is_tpu:
        yield
        return
    capability = compute_capability(target.chip)

    def parse(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split("."))

    with mock.patch.multiple(
        fused,
        check_cudnn_version=lambda: CUDNN_VERSION,
        check_compute_capability=lambda asked: capability >= parse(asked),
        is_cuda_compute_capability_equal=lambda asked: capability == parse(asked),
    ):
        yield
