"""Frozen features of many images, and the baselines that any representation must beat."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from rsfm_jax.sharding.mesh import Placement
from rsfm_jax.sharding.rules import batch_sharding


def extract_features(
    encode: Callable[[jax.Array], jax.Array], images: np.ndarray, batch_size: int, mesh: Mesh
) -> np.ndarray:
    """Features [N, D] float32 of uint8 images [N, H, W, 3], whole on every process.

    Args:
      encode: a jitted function [B, H, W, 3] -> [B, D] with a replicated result.
      images: all images; every process holds all of them.
      batch_size: a multiple of the mesh's data x fsdp; the last batch is filled up.
      mesh: where to run.
    """
    placement = Placement(batch_sharding(mesh), batch_size)
    features = []
    for start in range(0, len(images), batch_size):
        chunk = images[start : start + batch_size]
        filled = np.resize(chunk, (batch_size, *chunk.shape[1:]))
        batch = placement({"image": filled[placement.rows]})
        features.append(np.asarray(encode(batch["image"]), np.float32)[: len(chunk)])
    return np.concatenate(features)


def image_statistics(images: np.ndarray) -> np.ndarray:
    """Mean, deviation, minimum and maximum of each band: uint8 [N, H, W, C] -> [N, 4C].

    The "image statistics" baseline of Corley et al., "Revisiting pre-trained remote sensing
    model benchmarks" (arXiv 2305.13456).
    """
    pixels = images.reshape(len(images), -1, images.shape[-1]).astype(np.float32)
    moments = (pixels.mean(1), pixels.std(1), pixels.min(1), pixels.max(1))
    return np.concatenate(moments, axis=1)
