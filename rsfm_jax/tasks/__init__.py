"""Tasks by name: each brings its own init, loss and evaluation to the same loop."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from rsfm_jax.errors import UserError
from rsfm_jax.tasks.classify import Classify
from rsfm_jax.tasks.detect import Detect
from rsfm_jax.tasks.pretrain import Pretrain
from rsfm_jax.tasks.segment import Segment
from rsfm_jax.training.state import Task

TASKS: dict[str, Callable[[Any, Mesh], Task]] = {
    "pretrain": Pretrain,
    "classify": Classify,
    "detect": Detect,
    "segment": Segment,
}


def make_task(config: Any, mesh: Mesh) -> Task:
    """The task of `config.task`; raises `UserError` with the known names."""
    if config.task not in TASKS:
        raise UserError(f"config.task: unknown {config.task!r}; choose from {', '.join(TASKS)}")
    return TASKS[config.task](config, mesh)
