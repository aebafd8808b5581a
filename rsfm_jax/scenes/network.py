"""A trained checkpoint as what scenes are predicted with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.sliding_windows import Windows
from rsfm_jax.scenes.detection import Detector
from rsfm_jax.scenes.segmentation import Segmenter
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.sharding.rules import batch_sharding
from rsfm_jax.tasks import make_task
from rsfm_jax.tasks.encoder import fill_colour
from rsfm_jax.training.checkpoints import find_checkpoint, load_variables, written_metadata
from rsfm_jax.training.program import build_program


class Tiling(NamedTuple):
    """How scenes are cut, in pixels; None leaves a number to `load`."""

    tile: int | None = None  # the side that the checkpoint was trained with
    overlap: int | None = None  # a quarter of the tile
    batch: int = 2  # tiles a device and call


def load(checkpoint: Path, tiling: Tiling) -> Detector | Segmenter:
    """The network of a work folder, or of one step in it, on all devices of this process.

    Every device holds all weights and predicts its own share of a batch.

    Raises:
      UserError: no checkpoint there, one that neither detects nor segments, or a tiling that the
        network cannot take.
    """
    folder = find_checkpoint(checkpoint)
    config = ConfigDict(written_metadata(folder)["config"])
    if config.task not in ("detect", "segment"):
        raise UserError(f"{folder} is of task {config.task}: scenes need one of detect or segment")
    config.mesh = {"data": -1, "fsdp": 1, "model": 1}
    windows = _windows(config, tiling)
    mesh = make_mesh(config)
    task: Any = make_task(config, mesh)  # predict is beyond what the loop needs of a task
    variables = load_variables(folder, build_program(task, config, mesh).abstract_state)
    common: dict[str, Any] = {
        "predict": _placed(task.predict, variables, mesh),
        "classes": tuple(task.contract["classes"]),
        "fill": fill_colour(config),
        "batch_size": tiling.batch * mesh.size,
        "windows": windows,
    }
    if config.task == "detect":
        return Detector(**common)
    return Segmenter(**common, colours=task.protocol.colours)


def _windows(config: Any, tiling: Tiling) -> Windows:
    tile, patch_size = tiling.tile or config.data.image_size, config.model.patch_size
    overlap = tile // 4 if tiling.overlap is None else tiling.overlap
    if tile < 1 or tile % patch_size:
        raise UserError(f"--tile={tile} must be a multiple of the network's patches, {patch_size}")
    if not 0 <= overlap < tile:
        raise UserError(f"--overlap={overlap} must be 0 to {tile - 1}, less than the tile")
    if tiling.batch < 1:
        raise UserError(f"--batch={tiling.batch} must be 1 or more")
    return Windows(tile, tile - overlap)


def _placed(predict: Callable, variables: Any, mesh: jax.sharding.Mesh) -> Callable:
    """`predict` compiled, of host arrays, split over the devices."""
    sharding, compiled = batch_sharding(mesh), jax.jit(predict)

    def run(tiles: np.ndarray) -> Any:
        with jax.set_mesh(mesh):
            return compiled(variables, jax.device_put(tiles, sharding))

    return run
