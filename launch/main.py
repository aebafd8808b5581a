"""Trains or evaluates what a config describes.

    python launch/main.py --config=configs/quickstart.py --workdir=runs/quickstart
    python launch/main.py --config=configs/mae_86m.py --workdir=DIR --config.data.source=IMAGES

A work folder that holds a checkpoint is resumed. Exit status: 0 done, 2 bad config or data
(one line says what), 75 stopped by a signal after saving, 1 anything else.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from launch.command import EXIT_BAD_INPUT, EXIT_FAILED, execute, make_folder
from launch.config_flag import config_file, read_config
from rsfm_jax.errors import UserError

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and figures; runs/NAME by default"
)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do")
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", "", "FIRST:LAST, such as 10:13: traces these steps into WORKDIR/profile"
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where neither SLURM nor a TPU pod tells"
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0")


def parse_command_line(arguments: list[str]) -> tuple[Any, Path]:
    """(the resolved config, the work folder); raises `UserError` on any bad argument."""
    config = read_config(arguments)
    if "://" in (WORKDIR.value or ""):
        raise UserError(f"--workdir={WORKDIR.value}: give a folder; a bucket has to be mounted")
    return config, Path(WORKDIR.value or Path("runs", config_file().stem))


def run(config: Any, workdir: Path) -> None:
    """Builds mesh and task, then trains or evaluates."""
    # Imported here: --help and a bad command line need no accelerator.
    import jax

    from rsfm_jax.data.statistics import apply_statistics
    from rsfm_jax.sharding import distributed
    from rsfm_jax.sharding.mesh import check_batch, make_mesh
    from rsfm_jax.tasks import make_task
    from rsfm_jax.training import loop
    from rsfm_jax.training.host_memory import keep_freed_memory
    from rsfm_jax.training.validate import COMMON_RULES, check_values

    distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    keep_freed_memory()
    logging.info(
        "process %d of %d: %d of %d devices (%s)",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
        jax.devices()[0].device_kind,
    )
    check_values(config, COMMON_RULES)
    apply_statistics(config)
    mesh = make_mesh(config)
    check_batch(config, mesh)
    task = make_task(config, mesh)
    make_folder(workdir, f"--workdir={workdir}")
    if MODE.value == "evaluate":
        loop.evaluate(task, config, mesh, workdir)
    else:
        loop.train(task, config, mesh, workdir, PROFILE_STEPS.value)


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit status."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__, flags.FLAGS.main_module_help(), sep="\n")
        return 0
    return execute(lambda: run(*parse_command_line(arguments)))


def leave(status: int) -> None:
    """Ends this process.

    One of several that fails alone must not wait for the others in JAX's shutdown barrier:
    they wait for it in a collective. Gone at once, it makes them fail too.
    """
    import jax

    if status in (EXIT_FAILED, EXIT_BAD_INPUT) and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main(sys.argv))
