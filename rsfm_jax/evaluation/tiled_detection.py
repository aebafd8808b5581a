"""Detections of whole images from a network that sees square tiles.

The protocol of the published numbers (mmrotate): tiles overlap, the last one of each row and column
is shifted inwards, boxes go back to the whole image, and within each class the better of two that
overlap by more than 0.1 stays. Nothing else is left out, so a part of an object that an edge has
cut may remain beside the whole; `rsfm_jax.scenes` drops it.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from rsfm_jax.boxes.geometry import is_valid
from rsfm_jax.data.detection_images import LabelledImage
from rsfm_jax.data.formats.windows import resized_window, scaled_shape
from rsfm_jax.evaluation.detection_merging import Found, Merger
from rsfm_jax.evaluation.sliding_windows import Windows, in_batches
from rsfm_jax.models.roi_head import NMS_THRESHOLD, Detections

Predict = Callable[[np.ndarray], Detections]


class Tiling(NamedTuple):
    """How images become batches.

    windows: size and stride of the tiles in pixels.
    scales: factors that images are resized by, each in turn: 1 / n, or 1 and more.
    fill: RGB beyond the right and lower edge of an image smaller than a tile.
    batch_size: tiles a call; the last call is filled up.
    """

    windows: Windows
    scales: tuple[float, ...]
    fill: tuple[int, int, int]
    batch_size: int


class Tile(NamedTuple):
    """A window with its upper left corner at (x, y) of the image resized by `scale`."""

    scale: float
    x: int
    y: int


def detect(
    images: Iterable[LabelledImage], predict: Predict, tiling: Tiling
) -> Iterator[tuple[LabelledImage, Found]]:
    """Yields each image with its merged detections, in float64 pixels of the image.

    Args:
      images: read lazily, at most two batches of tiles ahead.
      predict: tiles uint8 [batch_size, size, size, 3] -> detections in pixels of the tiles. Every
        call has that shape, so it compiles once: a batch runs on into the next image.
    """
    ahead: collections.deque[tuple[LabelledImage, list[Tile]]] = collections.deque()

    def cut() -> Iterator[np.ndarray]:
        for image in images:
            tiles = tiles_of(image.pixels, tiling)
            ahead.append((image, tiles))
            for tile in tiles:
                yield resized_window(image.pixels, *tile, tiling.windows.size, tiling.fill)

    results = in_batches(cut(), predict, tiling.batch_size)
    for first in results:
        image, tiles = ahead.popleft()
        merger = Merger(NMS_THRESHOLD)
        for tile, result in zip(tiles, itertools.chain([first], results), strict=False):
            merger.add(_in_image(result, tile, image.pixels))
        yield image, merger.finish(np.inf)


def tiles_of(pixels: np.ndarray, tiling: Tiling) -> list[Tile]:
    """The tiles that cover an image [H, W, 3] at every scale, row by row."""
    return [
        Tile(scale, x, y)
        for scale in tiling.scales
        for height, width in [scaled_shape(pixels, scale)]
        for y in tiling.windows.starts(height)
        for x in tiling.windows.starts(width)
    ]


def _in_image(result: Detections, tile: Tile, pixels: np.ndarray) -> Found:
    """One tile's detections in pixels of the image; none of those centred outside of it."""
    boxes = np.asarray(result.boxes, np.float64) + [tile.x, tile.y, 0, 0, 0]
    height, width = scaled_shape(pixels, tile.scale)
    inside = (boxes[:, :2] >= 0) & (boxes[:, :2] < [width, height])
    keep = np.asarray(result.valid) & inside.all(axis=1) & is_valid(boxes)
    boxes[:, :4] /= tile.scale
    scores, classes = np.asarray(result.scores), np.asarray(result.classes)
    return Found(boxes[keep], scores[keep], classes[keep])
