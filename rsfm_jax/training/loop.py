"""The training loop: save -> evaluate -> next batch -> step -> log the step before.

Saving before the next batch makes resuming exact, and before evaluating, that an evaluation
which fails loses no training. Logging the previous step's metrics never makes the device wait
for the host.
"""

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rsfm_jax.errors import RunError, UserError
from rsfm_jax.files import write_text
from rsfm_jax.flops import training_flops
from rsfm_jax.sharding.hardware import peak_flops
from rsfm_jax.sharding.mesh import Placement
from rsfm_jax.training.checkpoints import (
    Checkpoints,
    find_checkpoint,
    load_variables,
    refuse_other_run,
)
from rsfm_jax.training.clock import Clock
from rsfm_jax.training.lock import only_run
from rsfm_jax.training.preemption import Preempted, StopSignal
from rsfm_jax.training.program import Program, build_program
from rsfm_jax.training.report import Reporter
from rsfm_jax.training.state import Task, TrainState, Variables
from rsfm_jax.training.transfer import load_initial

log = logging.getLogger(__name__)


class NonFiniteError(RunError):
    """Too many steps in a row had a loss or gradient that is not finite."""


def train(task: Task, config: Any, mesh: Mesh, workdir: Path) -> None:
    """Trains to `config.total_steps`, resuming from the newest checkpoint in `workdir`.

    Raises:
      Preempted: a signal came; a checkpoint was saved.
      NonFiniteError: `config.nonfinite_limit` skipped steps in a row.
      RunError: a checkpoint could not be written.
      UserError: the workdir's checkpoint or the data does not fit the config, no checkpoint there
        is whole, or another run works there.
    """
    metadata = run_metadata(task, config)
    program = build_program(task, config, mesh)
    placement = Placement(program.batch_sharding, config.batch_size)
    # Signals are held back until the last checkpoint is written.
    with (
        only_run(workdir),
        StopSignal() as stop,
        closing(open_checkpoints(config, workdir)) as checkpoints,
    ):
        state = first_state(program, checkpoints, task, metadata)
        start = int(state.step)
        if start > config.total_steps:
            raise UserError(
                f"{workdir} holds a checkpoint of step {start}, past "
                f"config.total_steps={config.total_steps}"
            )
        if jax.process_index() == 0:
            write_text(workdir / "config.json", json.dumps(metadata["config"], indent=2))
        reporter = Reporter(workdir, config.total_steps, start)
        with closing(reporter), closing(task.batches(placement.rows, start)) as batches:
            train_step = compile_step(program, task)
            clock = Clock()
            steps = StepLog(reporter, clock, batches, config, training_flops(task.flops))
            for step in range(start, config.total_steps + 1):
                at_end = step == config.total_steps
                if at_end or (step > start and due(step, config.checkpoint.every_steps)):
                    steps.flush()
                    with clock.paused():
                        checkpoints.save(state, step, metadata)
                if at_end or due(step, config.eval.every_steps):
                    steps.flush()
                    with clock.paused():
                        evaluated = run_evaluation(task, state.evaluated, mesh, step, workdir)
                        reporter.write(step, evaluated)
                if at_end:
                    break
                if stop.asked(step):
                    steps.flush()
                    checkpoints.save(state, step, metadata)
                    raise Preempted(f"stopped before step {step}; its checkpoint is saved")
                checkpoints.check()
                with clock.waiting():
                    batch = next(batches)
                inputs = {key: batch[key] for key in task.abstract_batch()}
                with jax.set_mesh(mesh):
                    state, metrics = train_step(state, placement(inputs))
                steps.done(step + 1, metrics, batch["example_id"])


def due(step: int, every: int) -> bool:
    """Whether something that happens `every` steps happens now; 0 leaves it to the end."""
    return every > 0 and step % every == 0


def evaluate(task: Task, config: Any, mesh: Mesh, workdir: Path) -> None:
    """Evaluates the newest checkpoint of `workdir`; adds a line to its metrics.jsonl.

    Raises:
      UserError: no checkpoint there, or one of another model.
    """
    # Not through `Checkpoints`, which would clear away what a run in training is writing.
    folder = find_checkpoint(workdir)
    program = build_program(task, config, mesh)
    refuse_other_run(folder, run_metadata(task, config))
    variables = load_variables(folder, program.abstract_state)
    step = int(folder.name)
    with closing(Reporter(workdir, config.total_steps, step)) as reporter:
        reporter.write(step, run_evaluation(task, variables, mesh, step, workdir))


def run_metadata(task: Task, config: Any) -> dict[str, Any]:
    """What a checkpoint says of its run: the resolved config and the input contract."""
    contract = json.loads(json.dumps(task.contract))  # as it will be read: tuples are lists
    return {"config": json.loads(config.to_json()), "contract": contract}


def open_checkpoints(config: Any, workdir: Path) -> Checkpoints:
    """The run's checkpoints with its keep policy."""
    keep = config.checkpoint
    return Checkpoints(workdir / "checkpoints", keep.keep_last, keep.keep_every)


def first_state(
    program: Program, checkpoints: Checkpoints, task: Task, metadata: dict[str, Any]
) -> TrainState:
    """Own checkpoint, else the weights of `config.init_from`, else fresh weights."""
    step = checkpoints.latest_step()
    if step is not None:
        log.info("resuming from step %d", step)
        return checkpoints.restore(program.abstract_state, metadata)
    with jax.set_mesh(program.mesh):
        state = program.init()
    config = metadata["config"]
    if config["init_from"]:
        params = load_initial(config["init_from"], state.params, task, config)
        # The average of the weights starts from them too, in memory of its own.
        average = None if state.average is None else jax.tree.map(jnp.copy, params)
        state = state.replace(params=params, average=average)
    return state


def compile_step(program: Program, task: Task) -> Any:
    """The train step compiled ahead, so that no timing includes it."""
    params = sum(x.size for x in jax.tree.leaves(program.abstract_state.params))
    log.info("%s parameters on mesh %s; compiling", f"{params:,}", dict(program.mesh.shape))
    with jax.set_mesh(program.mesh):
        return program.train_step.lower(program.abstract_state, task.abstract_batch()).compile()


def run_evaluation(
    task: Task, variables: Variables, mesh: Mesh, step: int, workdir: Path
) -> dict[str, float]:
    """The task's metrics under `eval/` names."""
    with jax.set_mesh(mesh):
        metrics = task.evaluate(variables, step, workdir)
    return {f"eval/{key}": value for key, value in metrics.items()}


class StepLog:
    """Logs every step one step late, and stops a run whose steps are not finite."""

    def __init__(
        self, reporter: Reporter, clock: Clock, batches: Any, config: Any, flops_per_image: int
    ):
        self._reporter, self._clock, self._batches = reporter, clock, batches
        self._config, self._flops_per_image = config, flops_per_image
        self._pending: tuple[int, Any, np.ndarray] | None = None

    def done(self, step: int, metrics: Any, example_ids: np.ndarray) -> None:
        """Takes a dispatched step's metrics and handles those of the one before."""
        self.flush()
        self._pending = step, metrics, example_ids

    def flush(self) -> None:
        """Waits for the pending step's metrics; raises `NonFiniteError` past the limit."""
        if self._pending is None:
            return
        step, metrics, example_ids = self._pending
        self._pending = None
        metrics = jax.device_get(metrics)
        self._clock.tick()
        self._reporter.progress(step)
        if metrics["skipped_in_a_row"] >= self._config.nonfinite_limit:
            raise NonFiniteError(
                f"step {step}: {metrics['skipped_in_a_row']} steps in a row were not finite; "
                f"this batch's examples: {example_ids.tolist()}"
            )
        if step == self._config.total_steps or due(step, self._config.log_every_steps):
            self._reporter.write(step, metrics | self._speed(step))

    def _speed(self, step: int) -> dict[str, float]:
        steps_a_second, data_wait = self._clock.read()
        images = steps_a_second * self._config.batch_size
        speed = {
            "images_per_second": images,
            "data_wait": data_wait,
            "seconds_left": (self._config.total_steps - step) / steps_a_second,
            "bad_examples": self._batches.bad_examples,
        }
        peak = peak_flops(jax.devices()[0])
        if peak:
            speed["mfu"] = images * self._flops_per_image / (peak * jax.device_count())
        return speed
