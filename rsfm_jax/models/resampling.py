"""Maps of one size from maps of another, as torch computes them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """[B, H, W, C] -> [B, *size, C]; torch's bilinear mode with align_corners=False."""
    shape = (x.shape[0], *size, x.shape[-1])
    return jax.image.resize(x, shape, "linear", antialias=False)


def adaptive_average_pool(x: jax.Array, bins: int) -> jax.Array:
    """[B, H, W, C] -> [B, bins, bins, C] averages, in float32.

    Bin i of n pixels covers floor(i*n/bins) to ceil((i+1)*n/bins): bins overlap where they do
    not divide the size, and repeat pixels where there are more bins than pixels.
    """
    rows, columns = (_average_matrix(count, bins) for count in x.shape[1:3])
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum(
        "ih,jw,bhwc->bijc", rows, columns, x.astype(jnp.float32), precision=exact
    )


def _average_matrix(count: int, bins: int) -> np.ndarray:
    """[bins, count] weights of the pixels in every bin."""
    first = np.arange(bins)[:, None] * count // bins
    last = -(-(np.arange(bins)[:, None] + 1) * count // bins)
    pixel = np.arange(count)
    inside = (pixel >= first) & (pixel < last)
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
