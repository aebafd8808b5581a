"""Cutting large images into windows, and which objects stay in a window."""

import numpy as np

from rsfm_jax.data.formats import polygon_area


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Starts of windows that cover 0..length; the last one is shifted back to end at the edge.

    With size 1024 and stride 824: 1024 -> [0], 1025 -> [0, 1], 1849 -> [0, 824, 825]. A length
    below `size` gives [0]: the window sticks out.
    """
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def area_inside(polygons: np.ndarray, x0, y0, x1, y1) -> np.ndarray:
    """Share of each polygon's area [N] in 0..1 that lies in the box x0 <= x <= x1, y0 <= y <= y1.

    Polygons [N, K, 2] may be concave but must not cross themselves.
    """
    clipped = np.asarray(polygons, np.float64)
    for axis, low, high in ((0, x0, x1), (1, y0, y1)):
        clipped = _clip_above(clipped, axis, low)
        clipped = -_clip_above(-clipped, axis, -high)
    whole = polygon_area(polygons)
    share = polygon_area(clipped) / np.where(whole > 0, whole, 1.0)
    return np.clip(share, 0.0, 1.0)


def _clip_above(polygons: np.ndarray, axis: int, limit: float) -> np.ndarray:
    """Clips polygons [N, K, 2] to coordinate >= limit, as [N, 2K, 2].

    Corners outside are moved straight onto the limit instead of being removed: what they add
    lies on that line and has no area, and every polygon keeps the same number of corners.
    """
    here = polygons
    after = np.roll(polygons, -1, 1)
    a, b = here[..., axis] - limit, after[..., axis] - limit  # signed distances, [N, K]
    crosses = a * b < 0
    share = np.where(crosses, a / np.where(crosses, a - b, 1.0), 0.0)
    crossing = here + share[..., None] * (after - here)  # `here` itself where nothing crosses
    both = np.stack([here, crossing], 2).reshape(len(here), 2 * here.shape[1], 2)
    both[..., axis] = np.maximum(both[..., axis], limit)
    return both
