"""Cutting large images into windows, and which objects stay in a window."""

import cv2
import numpy as np

from rsfm_jax.data.formats import polygon_area


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Starts of windows that cover 0..length; the last one is shifted back to end at the edge.

    With size 1024 and stride 824: 1024 -> [0], 1025 -> [0, 1], 1849 -> [0, 824, 825]. A length
    below `size` gives [0]: the window sticks out.
    """
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def scaled_shape(pixels: np.ndarray, scale: float) -> tuple[int, int]:
    """Height and width of an image [H, W, ...] resized by `scale`, rounded down, at least 1."""
    height, width = (max(1, int(length * scale)) for length in pixels.shape[:2])
    return height, width


def resized_window(
    pixels: np.ndarray, scale: float, x: int, y: int, size: int, fill: tuple[int, int, int]
) -> np.ndarray:
    """Square window with its corner at (x, y) of an image uint8 [H, W, 3] resized by `scale`.

    Only what the window shows is resized: a gigapixel image at 1.5 would not fit into memory.
    One n-th of the size averages areas, larger sizes interpolate with cubics as the DOTA devkit
    does; other scales below 1 are not for this function.

    Returns:
      uint8 [size, size, 3], `fill` where it sticks out of the resized image.
    """
    height, width = scaled_shape(pixels, scale)
    out = np.array([min(size, height - y), min(size, width - x)])  # rows, columns in the image
    if scale <= 1:
        step = round(1 / scale)
        rows, columns = out * step
        part = pixels[y * step : y * step + rows, x * step : x * step + columns]
        part = part if step == 1 else cv2.resize(part, out[::-1], interpolation=cv2.INTER_AREA)
    else:
        margin = 4  # more than the cubic looks at
        x0, y0 = (max(0, int(start / scale) - margin) for start in (x, y))
        y1, x1 = (int(end / scale) + margin for end in np.array([y, x]) + out)
        # cv2 coordinates are pixel centres: target + 0.5 = (source + 0.5) * scale
        shift = [0.5 * scale - 0.5 - start + scale * corner for start, corner in ((x, x0), (y, y0))]
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        part = cv2.warpAffine(
            pixels[y0:y1, x0:x1], matrix, out[::-1].tolist(),
            flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
    window = np.full((size, size, 3), fill, np.uint8)
    window[: out[0], : out[1]] = part
    return window


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
