"""Run with 8 devices: prints the losses of the same 20 steps on several meshes as JSON."""

import json
import sys

import jax
import numpy as np

from rsfm_jax.sharding.mesh import Placement, make_mesh
from rsfm_jax.tasks import make_task
from rsfm_jax.training.program import build_program
from tests import tiny


def losses(mesh_shape) -> list[float]:
    config = tiny.get_config()
    config.model.drop_path = 0.1  # random numbers, too, must not depend on the mesh
    for axis, size in zip(("data", "fsdp", "model"), mesh_shape, strict=True):
        config.mesh[axis] = size
    mesh = make_mesh(config, jax.devices()[: int(np.prod(mesh_shape))])
    task = make_task(config, mesh)
    program = build_program(task, config, mesh)
    placement = Placement(program.batch_sharding, config.batch_size)
    rng = np.random.default_rng(0)
    shape = task.abstract_batch()["image"].shape
    result = []
    with jax.set_mesh(mesh):
        state = program.init()
        for _ in range(config.total_steps):
            image = rng.integers(0, 256, shape, np.uint8)
            state, metrics = program.train_step(state, placement({"image": image}))
            result.append(float(metrics["loss"]))
    return result


if __name__ == "__main__":
    meshes = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]
    results = {"x".join(map(str, mesh)): losses(mesh) for mesh in meshes}
    json.dump(results, sys.stdout)
