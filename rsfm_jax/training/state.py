"""What training carries from step to step, and the task that drives it."""

from pathlib import Path
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.flops import Term

Params = Any
Variables = dict[str, Any]  # "params" and, where the model has them, "batch_stats"
Batch = dict[str, Any]
Metrics = dict[str, Any]


class Task(Protocol):
    """What the loop needs of a task; it knows none by name."""

    flops: list[Term]  # of one image, analytic
    contract: dict[str, Any]  # how inputs must look; stored in every checkpoint
    new_weights: tuple[str, ...]  # names that the encoder has and a pretrained one need not
    class_layers: tuple[str, ...]  # paths of the layers that have an output for every class

    def init(self, rng: jax.Array) -> Variables:
        """Fresh variables, the weights boxed with their logical axes."""

    def prepare(self, batch: Batch, rng: jax.Array) -> Batch:
        """On-device augmentation of a whole global batch; every leaf keeps the batch axis."""

    def loss(
        self, variables: Variables, inputs: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Metrics, Any]:
        """Mean loss over prepared inputs, scalars to log, and the new `batch_stats`."""

    def abstract_batch(self) -> Batch:
        """ShapeDtypeStructs of a global batch."""

    def batches(self, rows: np.ndarray, start_step: int) -> "Batches":
        """This process's rows of every batch from `start_step` on."""

    def evaluate(self, variables: Variables, step: int, workdir: Path) -> dict[str, float]:
        """Metrics on held-out data; process 0 draws pictures into `workdir`/figures."""


class Batches(Protocol):
    """An endless iterator of local batches."""

    fingerprint: dict[str, Any]  # of the data, as JSON: what a step's batch depends on

    @property
    def bad_examples(self) -> int:
        """Distinct undecodable examples met so far."""

    def __next__(self) -> dict[str, np.ndarray]:
        """The next step's rows, with their `example_id`."""

    def close(self) -> None:
        """Stops threads and worker processes."""


@flax.struct.dataclass
class TrainState:
    """Everything a checkpoint holds. The position in the data is a function of `step`."""

    step: jax.Array  # int32 number of finished steps
    params: Params
    batch_stats: Any  # running statistics of the norms; empty for models without
    average: Params | None  # moving average of the weights; None when it is not kept
    opt_state: Any
    skipped: jax.Array  # int32 non-finite steps since the start
    skipped_in_a_row: jax.Array  # int32 non-finite steps since the last finite one

    @property
    def trained(self) -> Variables:
        """What the training loss sees."""
        return join_variables(self.params, self.batch_stats)

    @property
    def evaluated(self) -> Variables:
        """What evaluation sees: the average's weights where one is kept."""
        params = self.params if self.average is None else self.average
        return join_variables(params, self.batch_stats)


def create_state(variables: Variables, optimizer: Any, averaged: bool) -> TrainState:
    """Step 0 of a run with these variables."""
    zero, params = jnp.zeros((), jnp.int32), variables["params"]
    return TrainState(
        step=zero,
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        average=params if averaged else None,
        opt_state=optimizer.init(params),
        skipped=zero,
        skipped_in_a_row=zero,
    )


def join_variables(params: Params, batch_stats: Any) -> Variables:
    """The dict that Flax applies a model with."""
    return {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})


def first_non_finite(state: TrainState) -> str | None:
    """The first of the state's parts that holds a number that is not finite."""
    finite = jax.device_get(_finite_parts(state))
    return next((name for name, holds in finite.items() if not holds), None)


@jax.jit
def _finite_parts(state: TrainState) -> dict[str, jax.Array]:
    def finite(tree: Any) -> jax.Array:
        leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
        return jnp.array(leaves, bool).all()

    names = ("params", "average", "batch_stats", "opt_state")
    return {name: finite(getattr(state, name)) for name in names}
