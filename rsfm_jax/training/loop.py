"""The training loop: save -> evaluate -> next batch -> step -> log the step before.

Saving before the next batch makes resuming exact, and before evaluating, that an evaluation
which fails loses no training. Logging the previous step's metrics never makes the device wait
for the host.
"""

import dataclasses
import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rsfm_jax.errors import UserError
from rsfm_jax.files import write_text
from rsfm_jax.flops import training_flops
from rsfm_jax.sharding.mesh import Placement
from rsfm_jax.training.checkpoints import (
    Checkpoints,
    find_checkpoint,
    load_variables,
    refuse_other_run,
)
from rsfm_jax.training.clock import Clock
from rsfm_jax.training.lock import only_run
from rsfm_jax.training.preemption import Interrupted, Preempted, StopSignal
from rsfm_jax.training.profile import Profile
from rsfm_jax.training.program import Program, build_program
from rsfm_jax.training.report import METRICS, Reporter
from rsfm_jax.training.state import Task, TrainState, Variables
from rsfm_jax.training.step_log import NonFiniteError, StepLog, due
from rsfm_jax.training.transfer import load_initial

log = logging.getLogger(__name__)


def train(task: Task, config: Any, mesh: Mesh, workdir: Path, profile_steps: str = "") -> None:
    """Trains to `config.total_steps`, resuming from the newest checkpoint in `workdir`.

    `profile_steps` are traced (see `Profile`) into the folder `profile` there.

    Raises:
      Preempted: a signal came; a checkpoint was saved.
      NonFiniteError: `config.nonfinite_limit` skipped steps in a row, and no roll-back is left.
      RunError: a checkpoint could not be written.
      UserError: the workdir's checkpoint or the data does not fit the config, no checkpoint there
        is whole, or another run works there.
    """
    profile = Profile(workdir / "profile", profile_steps)
    program = build_program(task, config, mesh)
    # Signals are held back until the last checkpoint is written.
    with (
        only_run(workdir),
        StopSignal() as stop,
        closing(open_checkpoints(config, workdir)) as checkpoints,
        closing(profile),
    ):
        passed_over = checkpoints.metadata().get("passed_over", [])
        while True:
            try:
                return train_on(
                    task, config, program, workdir, checkpoints, stop, profile, passed_over
                )
            except NonFiniteError as error:
                back = checkpoints.latest_step()
                if back is None or len(passed_over) >= config.nonfinite_rollbacks:
                    raise
                log.warning("%s; back to step %d, with the batches after those", error, back)
                passed_over = [*passed_over, [back, error.step]]


def train_on(
    task: Task,
    config: Any,
    program: Program,
    workdir: Path,
    checkpoints: Checkpoints,
    stop: StopSignal,
    profile: Profile,
    passed_over: list[list[int]],
) -> None:
    """Trains from the newest checkpoint to the end.

    Args:
      passed_over: [first, last] steps of every roll-back, whose batches are left out.
    """
    metadata = run_metadata(task, config) | {"passed_over": passed_over}
    placement = Placement(program.batch_sharding, config.batch_size)
    state = first_state(program, checkpoints, task, metadata, workdir)
    start = int(state.step)
    if start > config.total_steps:
        raise UserError(
            f"{workdir} holds a checkpoint of step {start}, past "
            f"config.total_steps={config.total_steps}"
        )
    position = start + sum(last - first for first, last in passed_over)
    with (
        closing(Reporter(workdir, config.total_steps, start)) as reporter,
        closing(task.batches(placement.rows, position)) as batches,
    ):
        metadata["data"] = batches.fingerprint
        checkpoints.refuse_other_data(metadata)
        if jax.process_index() == 0:
            write_text(workdir / "config.json", json.dumps(metadata["config"], indent=2))
        train_step = compile_step(program, task)
        clock = Clock()
        steps = StepLog(reporter, clock, batches, config, training_flops(task.flops))
        for step in range(start, config.total_steps + 1):
            at_end = step == config.total_steps
            if at_end or (step > start and due(step, config.checkpoint.every_steps)):
                steps.flush()
                with clock.paused():
                    checkpoints.save(state, step, metadata)
            try:
                if at_end or due(step, config.eval.every_steps):
                    steps.flush()
                    with clock.paused(), stop.interrupting():
                        metrics = run_evaluation(task, state.evaluated, program.mesh, step, workdir)
                    reporter.write(step, metrics)
                if at_end:
                    break
                stop.check(step)
                with clock.waiting(), stop.interrupting():
                    batch = next(batches)
            except Interrupted:
                steps.flush()
                checkpoints.save(state, step, metadata)
                raise Preempted(f"stopped before step {step}; its checkpoint is saved") from None
            checkpoints.check()
            inputs = {key: batch[key] for key in task.abstract_batch()}
            profile.before(step + 1, state)
            with jax.set_mesh(program.mesh):
                state, metrics = train_step(state, placement(inputs))
            steps.done(step + 1, metrics, batch["example_id"])


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
    program: Program, checkpoints: Checkpoints, task: Task, metadata: dict[str, Any], workdir: Path
) -> TrainState:
    """Own checkpoint, else the weights of `config.init_from`, else fresh weights."""
    step = checkpoints.latest_step()
    if step is not None:
        log.info("resuming from step %d", step)
        return checkpoints.restore(program.abstract_state, metadata)
    if (workdir / METRICS).exists():
        log.warning("%s has no checkpoint yet: starting from step 0", workdir)
    with jax.set_mesh(program.mesh):
        state = program.init()
    config = metadata["config"]
    if config["init_from"]:
        params = load_initial(config["init_from"], state.params, task, config)
        # The average of the weights starts from them too, in memory of its own.
        average = None if state.average is None else jax.tree.map(jnp.copy, params)
        state = dataclasses.replace(state, params=params, average=average)
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
