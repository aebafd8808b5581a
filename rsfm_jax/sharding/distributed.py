"""Start-up of several processes: TPU pods, SLURM and explicit coordinators."""

import os

import jax

from rsfm_jax.errors import UserError


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins this process to the others; on a single machine without peers, does nothing.

    Args:
      coordinator: host:port of process 0; None looks at the surroundings.
      num_processes: how many processes there are; needed with `coordinator`.
      process_id: this one's number from 0; needed with `coordinator`.

    With no coordinator, a SLURM job of several tasks and a TPU pod are recognised by their
    environment variables and JAX's own detection fills in the rest.
    """
    explicit = (coordinator, num_processes, process_id)
    if any(value is not None for value in explicit):
        if any(value is None for value in explicit):
            raise UserError(
                "--coordinator, --num_processes and --process_id go together; give all three"
            )
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif _in_slurm_step() or _on_tpu_pod():
        jax.distributed.initialize()


def _in_slurm_step() -> bool:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _on_tpu_pod() -> bool:
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
