"""Running a model over many held-out images, and the simplest features to beat."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rsfm_jax.sharding.mesh import Placement
from rsfm_jax.sharding.rules import batch_sharding


def map_batches(
    function: Callable[[Any], Any], examples: dict[str, np.ndarray], batch_size: int, mesh: Mesh
) -> Any:
    """Applies a jitted function to all examples in batches of one shape.

    Args:
      function: batch -> tree of arrays whose first axis is the batch, replicated on all devices.
      examples: arrays whose first axis is the example; every process holds all of them.
      batch_size: rounded up to a multiple of the mesh's data x fsdp; the last batch is filled up.
      mesh: where to run.

    Returns:
      The tree of numpy arrays, first axis the example, whole on every process.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    batch_size = -(-batch_size // shards) * shards
    placement = Placement(batch_sharding(mesh), batch_size)
    count = len(next(iter(examples.values())))
    results = []
    for start in range(0, count, batch_size):
        ids = np.resize(np.arange(start, min(start + batch_size, count)), batch_size)
        local = ids[placement.rows]
        result = function(placement({key: value[local] for key, value in examples.items()}))
        kept = min(batch_size, count - start)
        results.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[:kept], result))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def image_statistics(images: np.ndarray) -> np.ndarray:
    """Mean, deviation, minimum and maximum of each band: uint8 [N, H, W, C] -> [N, 4C].

    The "image statistics" baseline of Corley et al., "Revisiting pre-trained remote sensing
    model benchmarks" (arXiv 2305.13456).
    """
    pixels = images.reshape(len(images), -1, images.shape[-1]).astype(np.float32)
    moments = (pixels.mean(1), pixels.std(1), pixels.min(1), pixels.max(1))
    return np.concatenate(moments, axis=1)
