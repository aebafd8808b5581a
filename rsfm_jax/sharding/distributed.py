"""Several processes: start-up on TPU pods, SLURM and explicit coordinators, and agreement."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from rsfm_jax.errors import UserError


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins this process to the others; on a single machine without peers, does nothing.

    Args:
      coordinator: host:port of process 0; None looks at the surroundings.
      num_processes: how many processes there are; needed with `coordinator`.
      process_id: this one's number from 0; needed with `coordinator`.

    With no coordinator, a SLURM step of several tasks and a TPU host are recognised, and JAX's
    own detection fills in the addresses.

    Raises:
      UserError: some but not all of the three are given.
    """
    explicit = (coordinator, num_processes, process_id)
    if all(value is not None for value in explicit):
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif any(value is not None for value in explicit):
        raise UserError("--coordinator, --num_processes and --process_id go together; give all")
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        jax.distributed.initialize(local_device_ids=slurm_local_devices(os.environ))
    elif _on_tpu_host():
        jax.distributed.initialize()


def everywhere(holds: bool) -> bool:
    """Whether something holds on every process; each of them has to ask."""
    if jax.process_count() == 1:
        return holds
    return bool(multihost_utils.process_allgather(np.array(holds)).all())


def slurm_local_devices(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs of this SLURM task; None leaves it to JAX, which takes one GPU a task.

    With one task a node JAX would see only the first GPU of each; here such a task takes all.
    """
    tasks_per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "")  # "1(x2)", "8", "4,4"
    if tasks_per_node.partition("(")[0] != "1":
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    count = len(visible.split(",")) if visible else int(environment.get("SLURM_GPUS_ON_NODE", "0"))
    return list(range(count)) or None


def _on_tpu_host() -> bool:
    if importlib.util.find_spec("libtpu") is None:
        return False
    return any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))
