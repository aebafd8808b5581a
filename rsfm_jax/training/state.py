"""What training carries from step to step, and the task that drives it."""

from pathlib import Path
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Params = Any
Batch = dict[str, Any]
Metrics = dict[str, Any]


class Task(Protocol):
    """What the loop needs of a task; it knows none by name."""

    flops_per_image: int  # forward + backward, analytic
    contract: dict[str, Any]  # how inputs must look; stored in every checkpoint

    def init(self, rng: jax.Array) -> Params:
        """Fresh weights, boxed with their logical axes."""

    def prepare(self, batch: Batch, rng: jax.Array) -> Batch:
        """On-device augmentation of a whole global batch; every leaf keeps the batch axis."""

    def loss(self, params: Params, inputs: Batch, rng: jax.Array) -> tuple[jax.Array, Metrics]:
        """Mean loss over prepared inputs, and scalars to log."""

    def abstract_batch(self) -> Batch:
        """ShapeDtypeStructs of a global batch."""

    def batches(self, rows: np.ndarray, start_step: int) -> "Batches":
        """This process's rows of every batch from `start_step` on."""

    def evaluate(self, params: Params, step: int, workdir: Path) -> dict[str, float]:
        """Metrics on held-out data; process 0 draws pictures into `workdir`/figures."""


class Batches(Protocol):
    """An endless iterator of local batches."""

    bad_examples: int  # distinct undecodable examples met so far

    def __next__(self) -> dict[str, np.ndarray]:
        """The next step's rows, with their `example_id`."""

    def close(self) -> None:
        """Stops threads and worker processes."""


@flax.struct.dataclass
class TrainState:
    """Everything a checkpoint holds. The position in the data is a function of `step`."""

    step: jax.Array  # int32 number of finished steps
    params: Params
    opt_state: Any
    skipped: jax.Array  # int32 non-finite steps since the start
    skipped_in_a_row: jax.Array  # int32 non-finite steps since the last finite one


def create_state(params: Params, optimizer: Any) -> TrainState:
    """Step 0 of a run with these weights."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, optimizer.init(params), zero, zero)
