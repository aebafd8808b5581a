"""Class maps of a whole scene from a network that sees square windows.

The windows and their blending are those of `evaluation.sliding_windows`. A scene is cut into
regions that need nothing of each other: strips of columns, so that memory does not grow with the
width, and runs of window rows that may hold data. A window that two strips need is predicted twice.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from rsfm_jax.evaluation.sliding_windows import Tile, Windows, segment
from rsfm_jax.scenes.raster import Scene

NODATA = 255
BUFFER_BYTES = 2**27  # of summed logits; three times that is in use while a band is finished


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A network that names the class of every pixel.

    Attributes:
      predict: windows uint8 [batch_size, size, size, 3] -> logits [batch_size, size, size, C].
      classes: names of the C classes, at most 255.
      colours: RGB of each, 0..255.
      fill: colour of what is no data, one that normalises to about zero.
      batch_size: windows a call.
      windows: how scenes are cut.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    fill: tuple[int, int, int]
    batch_size: int
    windows: Windows


@dataclasses.dataclass(frozen=True)
class Region:
    """Pixels that are segmented together, and the columns of them that are kept."""

    rows: slice
    columns: slice
    kept: slice


@dataclasses.dataclass(frozen=True)
class _Pixels:
    """What `sliding_windows` needs of an image: a shape and slicing, here of a region."""

    scene: Scene
    region: Region
    fill: tuple[int, int, int]
    tick: Callable[[], object]

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.region.rows, self.region.columns
        return rows.stop - rows.start, columns.stop - columns.start

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray | None:
        self.tick()
        parts = zip(place, self.shape, (self.region.rows, self.region.columns), strict=True)
        rows, columns = (
            slice(whole.start + part.start, whole.start + min(part.stop, length))
            for part, length, whole in parts
        )
        if not self.scene.holds_data(rows, columns):
            return None
        pixels, valid = self.scene.read(rows, columns)
        if not valid.any():
            return None
        return np.where(valid[..., None], pixels, np.array(self.fill, np.uint8))


def class_maps(
    scene: Scene, segmenter: Segmenter, tick: Callable[[], object]
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yields (rows, columns, classes uint8 [h, w], 255 where there is no data) of the scene.

    What no part covers holds no data. `tick` is called for every one of `count_windows`.
    """
    tiles = (
        Tile(scene.name, _Pixels(scene, region, segmenter.fill, tick))
        for region in regions(scene, segmenter)
    )
    bands = segment(
        tiles, segmenter.predict, len(segmenter.classes), segmenter.batch_size, segmenter.windows
    )
    for tile, top, classes in bands:
        assert isinstance(tile.image, _Pixels)  # as they came in
        region = tile.image.region
        top += region.rows.start
        rows = slice(top, top + len(classes))
        left, right = region.kept.start, region.kept.stop
        classes = classes[:, left - region.columns.start : right - region.columns.start]
        yield rows, region.kept, np.where(scene.valid(rows, region.kept), classes, NODATA)


def count_windows(scene: Scene, segmenter: Segmenter) -> int:
    """How many windows `class_maps` looks at."""
    starts = segmenter.windows.starts
    return sum(
        len(starts(region.rows.stop - region.rows.start))
        * len(starts(region.columns.stop - region.columns.start))
        for region in regions(scene, segmenter)
    )


def regions(scene: Scene, segmenter: Segmenter) -> Iterator[Region]:
    """The regions of a scene that may hold data, strip by strip, each from top to bottom.

    The windows of a region are those of the scene that lie in it, all that touch a kept pixel
    are among them: the class maps do not depend on the strips.
    """
    (height, width), windows = scene.shape, segmenter.windows
    tops, lefts = windows.starts(height), windows.starts(width)
    columns = BUFFER_BYTES // (4 * windows.size * len(segmenter.classes))
    step = max(1, columns // windows.stride)
    for first in range(0, len(lefts), step):
        end = min(first + step, len(lefts))
        touching = next(i for i in range(first + 1) if lefts[i] + windows.size > lefts[first])
        strip = slice(lefts[touching], min(lefts[end - 1] + windows.size, width))
        kept = slice(lefts[first], lefts[end] if end < len(lefts) else width)
        for rows in _runs(scene, tops, windows.size, strip):
            yield Region(rows, strip, kept)


def _runs(scene: Scene, tops: list[int], size: int, strip: slice) -> Iterator[slice]:
    """Rows of successive windows that may all hold data."""
    rows = [slice(top, min(top + size, scene.shape[0])) for top in tops]
    for holds, run in itertools.groupby(rows, lambda part: scene.holds_data(part, strip)):
        if holds:
            parts = list(run)
            yield slice(parts[0].start, parts[-1].stop)
