"""The one train step, and the jitted program around it.

The same program serves training, ahead-of-time planning, benchmarks and tests.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from rsfm_jax.sharding.rules import batch_sharding, constrain, tree_shardings, unbox
from rsfm_jax.training.optimizer import learning_rate, make_optimizer
from rsfm_jax.training.state import (
    Batch,
    Metrics,
    Task,
    TrainState,
    Variables,
    create_state,
    join_variables,
)


@dataclasses.dataclass(frozen=True)
class Program:
    """A run's compiled parts, derived from task, config and mesh.

    Attributes:
      mesh: the devices; set it (`jax.set_mesh`) around calls of the jitted functions.
      abstract_state: shapes, types and shardings of the state: what restoring needs.
      batch_sharding: where a batch's rows go.
      init: () -> fresh `TrainState`, sharded as it is made.
      train_step: (state, batch) -> (state, metrics); the state is donated.
    """

    mesh: Mesh
    abstract_state: TrainState
    batch_sharding: NamedSharding
    init: Callable[[], TrainState]
    train_step: Any


def build_program(task: Task, config: Any, mesh: Mesh) -> Program:
    """Derives shardings from the weights' axes and jits initialisation and training."""
    seed = jax.random.key(config.seed)
    optimizer = make_optimizer(config, jax.eval_shape(task.init, seed)["params"])
    averaged = config.optimizer.average_decay > 0

    def init() -> TrainState:
        return create_state(task.init(jax.random.key(config.seed)), optimizer, averaged)

    boxed_state = jax.eval_shape(init)
    shardings = tree_shardings(boxed_state, mesh)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        unbox(boxed_state),
        shardings,
    )
    rows = batch_sharding(mesh)
    step = make_train_step(task, config, optimizer, shardings.params)
    return Program(
        mesh=mesh,
        abstract_state=abstract,
        batch_sharding=rows,
        init=jax.jit(lambda: unbox(init()), out_shardings=shardings),
        train_step=jax.jit(
            step,
            in_shardings=(shardings, rows),
            out_shardings=(shardings, None),
            donate_argnums=0,
        ),
    )


def make_train_step(
    task: Task, config: Any, optimizer: optax.GradientTransformation, param_shardings: Any
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The pure step; randomness is a function of (config.seed, state.step) alone."""
    schedule = learning_rate(config)

    def average(old: Any, params: Any, updates: jax.Array) -> Any:
        if old is None:
            return None
        # Ramped up as in TensorFlow's ExponentialMovingAverage: a short run would else be left
        # with a part of the weights it started from.
        decay = jnp.minimum(config.optimizer.average_decay, (1 + updates) / (10 + updates))
        return optax.incremental_update(params, old, 1 - decay)

    def loss(variables: Variables, inputs: Batch, rng: jax.Array) -> Any:
        # Cut off here, frozen parts cost no backward pass.
        params = {
            name: jax.lax.stop_gradient(part) if name in config.model.frozen else part
            for name, part in variables["params"].items()
        }
        return task.loss(variables | {"params": params}, inputs, rng)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(config.seed), state.step)
        prepare_rng, loss_rng = jax.random.split(rng)
        inputs = task.prepare(batch, prepare_rng)
        grads, metrics, batch_stats = accumulate_gradients(
            loss, state, inputs, loss_rng, config.accumulate_steps
        )
        # Reduce-scatters the gradients into the weights' own shards instead of summing them
        # whole on every device.
        grads = jax.lax.with_sharding_constraint(grads, param_shardings)
        grad_norm = optax.tree.norm(grads)
        # Known before any update, so that new weights and moments are written once, in place.
        # Updates from clipped gradients are finite where these are.
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        def if_finite(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        updates_before = state.step - state.skipped  # a skipped step does not move the schedule
        rate = schedule(updates_before)
        state = TrainState(
            step=state.step + 1,
            params=if_finite(params, state.params),
            batch_stats=if_finite(batch_stats, state.batch_stats),
            average=if_finite(average(state.average, params, updates_before), state.average),
            opt_state=if_finite(opt_state, state.opt_state),
            skipped=state.skipped + ~finite,
            skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
        )
        metrics |= {
            "grad_norm": grad_norm,
            "learning_rate": rate,
            "skipped": state.skipped,
            "skipped_in_a_row": state.skipped_in_a_row,
        }
        return state, metrics

    return train_step


def accumulate_gradients(
    loss: Callable[..., tuple[jax.Array, Metrics, Any]],
    state: TrainState,
    inputs: Batch,
    rng: jax.Array,
    steps: int,
) -> tuple[Any, Metrics, Any]:
    """Gradients and metrics (with `loss`), means over `steps` equal parts, and batch statistics.

    The running statistics pass through the parts one after the other.
    """

    def gradients(batch_stats: Any, part: Batch, rng: jax.Array) -> tuple[Any, Any]:
        def of_params(params: Any) -> tuple[jax.Array, Any]:
            value, metrics, new = loss(join_variables(params, batch_stats), part, rng)
            return value, ({"loss": value, **metrics}, new)

        grads, (metrics, new) = jax.grad(of_params, has_aux=True)(state.params)
        return new, (grads, metrics)

    if steps == 1:
        batch_stats, means = gradients(state.batch_stats, inputs, rng)
        return *means, batch_stats

    def split(x: jax.Array) -> jax.Array:  # [B, ...] -> [steps, B/steps, ...]
        # Row i*steps+a goes to part a: every device keeps the rows it has.
        parts = x.reshape(x.shape[0] // steps, steps, *x.shape[1:]).swapaxes(0, 1)
        return constrain(parts, None, "batch", *[None] * (x.ndim - 1))

    parts = jax.tree.map(split, inputs), jax.random.split(rng, steps)

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        batch_stats, total = carry
        batch_stats, new = gradients(batch_stats, *part)
        return (batch_stats, jax.tree.map(jnp.add, total, new)), None

    first = jax.tree.map(lambda x: x[0], parts)
    _, shapes = jax.eval_shape(gradients, state.batch_stats, *first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (batch_stats, total), _ = jax.lax.scan(add, (state.batch_stats, zeros), parts)
    return *jax.tree.map(lambda x: x / steps, total), batch_stats
