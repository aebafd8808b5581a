"""Detections of a whole scene from a network that sees square tiles.

Neighbouring tiles overlap. What a tile's inner edge has cut is left to the neighbour that sees it
whole; what several tiles have found is merged by score (`merging`). Objects up to 7/8 of the
overlap are found as if the scene were one tile; of longer ones several parts may remain.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from rsfm_jax.boxes.geometry import is_valid, to_hbb
from rsfm_jax.evaluation.detection_merging import Found, Merger
from rsfm_jax.evaluation.sliding_windows import Windows, in_batches
from rsfm_jax.models.roi_head import NMS_THRESHOLD, Detections
from rsfm_jax.scenes.raster import Scene

NEAR = 1 / 16  # of the overlap: nearer to an inner edge than that, a box may have been cut there


@dataclasses.dataclass(frozen=True)
class Detector:
    """A network that finds objects.

    Attributes:
      predict: tiles uint8 [batch_size, size, size, 3] -> `Detections` in tile pixels.
      classes: their names.
      fill: colour of what is no data, one that normalises to about zero.
      batch_size: tiles a call.
      windows: how scenes are cut.
    """

    predict: Callable[[np.ndarray], Detections]
    classes: tuple[str, ...]
    fill: tuple[int, int, int]
    batch_size: int
    windows: Windows


@dataclasses.dataclass(frozen=True, eq=False)
class _Tile:
    scene: Scene
    rows: slice
    columns: slice
    valid: np.ndarray  # [h, w] bool

    @property
    def inner(self) -> np.ndarray:
        """Whether the scene goes on at its left, top, right, bottom: [4] bool."""
        height, width = self.scene.shape
        beyond = self.columns.stop < width, self.rows.stop < height
        return np.array([self.columns.start > 0, self.rows.start > 0, *beyond])


def detect(
    scenes: Iterable[Scene], detector: Detector, min_score: float, tick: Callable[[], object]
) -> Iterator[tuple[Scene, Found]]:
    """Merged detections of scenes, one after the other, each in bands from top to bottom.

    Holds the detections of about two rows of tiles and two batches of pixels, whatever the size
    of a scene. A batch runs on into the next scene. Detections centred on what is no data are
    dropped.

    Args:
      scenes: read tile by tile; tiles without data are not predicted.
      detector: the network.
      min_score: detections below it are dropped.
      tick: called for every one of each scene's `places`.
    """
    ahead: collections.deque[_Tile] = collections.deque()

    def cut() -> Iterator[np.ndarray]:
        for scene in scenes:
            for rows, columns in places(scene, detector.windows):
                tick()
                pixels, valid = scene.read(rows, columns)
                if valid.any():
                    ahead.append(_Tile(scene, rows, columns, valid))
                    yield _filled(pixels, valid, detector)

    size, stride = detector.windows
    merger, last = Merger(NMS_THRESHOLD), None
    for result in in_batches(cut(), detector.predict, detector.batch_size):
        tile = ahead.popleft()
        if last and tile.scene is not last.scene:
            yield last.scene, merger.finish(np.inf)
        elif last and tile.rows.start > last.rows.start:
            yield last.scene, merger.finish(tile.rows.start - (size - stride))
        merger.add(_in_scene(result, tile, size, size - stride, min_score))
        last = tile
    if last:
        yield last.scene, merger.finish(np.inf)


def places(scene: Scene, windows: Windows) -> list[tuple[slice, slice]]:
    """Rows and columns of the tiles that may hold data, row by row."""
    height, width = scene.shape
    tiles = (
        (slice(top, min(top + windows.size, height)), slice(left, min(left + windows.size, width)))
        for top in windows.starts(height)
        for left in windows.starts(width)
    )
    return [place for place in tiles if scene.holds_data(*place)]


def _filled(pixels: np.ndarray, valid: np.ndarray, detector: Detector) -> np.ndarray:
    """The tile at full size, with the neutral colour where there is no data."""
    size = detector.windows.size
    tile = np.full((size, size, 3), detector.fill, np.uint8)
    np.copyto(tile[: len(valid), : valid.shape[1]], pixels, where=valid[..., None])
    return tile


def _in_scene(result: Detections, tile: _Tile, size: int, overlap: int, min_score: float) -> Found:
    """The detections of one tile that count, in pixels of the scene."""
    boxes = np.asarray(result.boxes, np.float64)
    keep = result.valid & (result.scores >= min_score) & is_valid(boxes)
    height, width = tile.valid.shape
    x, y = np.floor(np.where(keep[:, None], boxes[:, :2], 0)).astype(int).T
    keep &= (x >= 0) & (y >= 0) & (x < width) & (y < height)
    keep &= tile.valid[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    keep &= ~_left_to_neighbour(boxes, tile.inner, size, overlap)
    shifted = boxes[keep] + [tile.columns.start, tile.rows.start, 0, 0, 0]
    return Found(shifted, np.asarray(result.scores)[keep], np.asarray(result.classes)[keep])


def _left_to_neighbour(boxes: np.ndarray, inner: np.ndarray, size: int, overlap: int) -> np.ndarray:
    """Which boxes [N, 5] an inner edge has cut and a neighbouring tile sees whole: [N] bool.

    Those that reach the edge and have their centre nearer to it than half the overlap, where the
    neighbour's view is the better one. Boxes that reach farther than the overlap beyond an inner
    edge are nothing that this tile has seen.
    """
    limits = np.array([0, 0, size, size])
    inwards = np.array([1, 1, -1, -1])
    centres = np.tile(boxes[:, :2], 2)  # [N, 4]
    reach = (to_hbb(boxes) - limits) * inwards  # [N, 4] pixels from each edge to the box
    depth = (centres - limits) * inwards  # and to its centre
    cut = (reach < NEAR * overlap) & (depth < overlap / 2)
    return (inner & (cut | (reach < -overlap))).any(axis=1)
