"""Run with 8 devices: prints two steps of segmentation on one and on all as JSON."""

import json
import sys

import jax
import numpy as np

from rsfm_jax.sharding.mesh import Placement, make_mesh
from rsfm_jax.tasks.segment import Segment
from rsfm_jax.training.program import build_program
from tests import tiny_segment


def steps(mesh_shape):
    config = tiny_segment.get_config()
    config.accumulate_steps = 2
    config.mesh.update(dict(zip(("data", "fsdp", "model"), mesh_shape, strict=True)))
    mesh = make_mesh(config, jax.devices()[: int(np.prod(mesh_shape))])
    task = Segment(config, mesh)
    program = build_program(task, config, mesh)
    placement = Placement(program.batch_sharding, config.batch_size)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "mask": rng.choice([0, 1, 2, 255], (8, 32, 32)).astype(np.uint8),
        "inside": rng.integers(16, 33, (8, 2), np.int32),
    }
    with jax.set_mesh(mesh):
        state, logged = program.init(), []
        for _ in range(2):
            state, metrics = program.train_step(state, placement(batch))
            logged.append({key: float(value) for key, value in metrics.items()})
    return {
        "metrics": logged,
        "statistics": [np.asarray(x).tolist() for x in jax.tree.leaves(state.batch_stats)],
    }


if __name__ == "__main__":
    json.dump([steps((1, 1, 1)), steps((2, 2, 2))], sys.stdout)
