"""Run with 8 devices: prints two detection train steps on one device and on eight as JSON."""

import json
import sys

import jax
import numpy as np

from rsfm_jax.sharding.mesh import Placement, make_mesh
from rsfm_jax.tasks.detect import Detect
from rsfm_jax.training.program import build_program
from tests import tiny_detect


def steps(mesh_shape, count) -> list[dict[str, float]]:
    config = tiny_detect.get_config()
    config.optimizer.warmup_steps = 0
    for axis, size in zip(("data", "fsdp", "model"), mesh_shape, strict=True):
        config.mesh[axis] = size
    mesh = make_mesh(config, jax.devices()[: int(np.prod(mesh_shape))])
    task = Detect(config, mesh)
    program = build_program(task, config, mesh)
    placement = Placement(program.batch_sharding, config.batch_size)
    result = []
    with jax.set_mesh(mesh), task.batches(placement.rows, 0) as batches:
        state = program.init()
        for _ in range(count):
            batch = next(batches)
            inputs = {name: batch[name] for name in task.abstract_batch()}
            state, metrics = program.train_step(state, placement(inputs))
            result.append({name: float(value) for name, value in metrics.items()})
    return result


if __name__ == "__main__":
    json.dump([steps(mesh, 2) for mesh in ((1, 1, 1), (2, 2, 2))], sys.stdout)
