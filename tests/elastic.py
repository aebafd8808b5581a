"""Run with 8 devices: continues a checkpoint of 8 devices on fewer; prints what it saw as JSON.

JAX_NUM_CPU_DEVICES=8 python -m tests.elastic WORKDIR IMAGES
"""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np

from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.training import loop
from tests.toy_main import ToyImages, get_config

SAVED, END = 10, 20
MESHES = {"1x8x1": (1, 8, 1), "1x4x1": (1, 4, 1), "2x2x1": (2, 2, 1), "1x1x1": (1, 1, 1)}


class Recorded(ToyImages):
    """Keeps the examples of every batch."""

    def __init__(self, config):
        super().__init__(config)
        self.ids = []

    def batches(self, rows, start_step):
        batches, ids = super().batches(rows, start_step), self.ids

        class Recording(type(batches)):
            def __next__(self):
                batch = super().__next__()
                ids.append(batch["example_id"].tolist())
                return batch

        batches.__class__ = Recording
        return batches


def continue_on(mesh_shape: tuple[int, int, int], workdir: Path, images: str, steps: int):
    config = get_config()
    config.data.source = images
    config.total_steps, config.checkpoint.every_steps = END, SAVED
    config.eval.every_steps = 0
    config.mesh.data, config.mesh.fsdp, config.mesh.model = mesh_shape
    mesh = make_mesh(config, jax.devices()[: int(np.prod(mesh_shape))])
    task = Recorded(config)
    loop.train(task, config, mesh, workdir)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    return {
        "ids": task.ids[-steps:],
        "losses": [losses[step] for step in range(SAVED + 1, END + 1)],
    }


def main(workdir: Path, images: str) -> None:
    whole = workdir / "whole"
    whole.mkdir(parents=True)
    results = {"whole": continue_on((1, 8, 1), whole, images, END - SAVED)}
    shutil.rmtree(whole / "checkpoints" / str(END))
    for name, shape in MESHES.items():
        torn = shutil.copytree(whole, workdir / name, ignore=shutil.ignore_patterns("metrics*"))
        results[name] = continue_on(shape, torn, images, END - SAVED)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
