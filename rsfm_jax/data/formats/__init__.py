"""Readers of published label formats and their class lists, pure and free of file access.

Every reader takes `bad`, called with one line for each thing it cannot accept. `stop`, the
default, raises; a function that only takes note lets the reader leave that thing out and go on.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rsfm_jax.errors import UserError

Report = Callable[[str], None]

FARTHEST = 1e9  # pixels from the origin; no image reaches there, and float32 counts in 64s
IGNORE = 255  # mask value that neither trains nor counts


def stop(message: str) -> None:
    """Raises UserError(message)."""
    raise UserError(message)


class Objects(NamedTuple):
    """Labelled objects of one image.

    polygons: float32 [N, 4, 2], x and y of the corners in pixels, in the order of the file.
    labels: int64 [N], index into the class list that was asked for.
    difficult: uint8 [N], as labelled; 0 where the file does not say.
    """

    polygons: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray

    @classmethod
    def stack(cls, rows: list[tuple[np.ndarray, int, int]]) -> "Objects":
        """Joins (corners [4, 2], label, difficult) rows, also none at all."""
        polygons, labels, difficult = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(
            np.asarray(polygons, np.float32).reshape(-1, 4, 2),
            np.asarray(labels, np.int64),
            np.asarray(difficult, np.uint8),
        )


def polygon_area(polygons: np.ndarray) -> np.ndarray:
    """Absolute shoelace area [...] of polygons [..., K, 2]; 0 for collinear corners."""
    # Relative to the first corner, so that far-away polygons keep their digits.
    x, y = np.moveaxis(np.asarray(polygons, np.float64) - polygons[..., :1, :], -1, 0)
    after_x, after_y = np.roll(x, -1, -1), np.roll(y, -1, -1)
    return 0.5 * np.abs((x * after_y - after_x * y).sum(-1))
