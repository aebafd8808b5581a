"""Class maps of whole tiles from a network that sees square windows.

The protocol of mmsegmentation's "slide" mode, which the published numbers use: windows overlap,
the last one of each row and column is shifted inwards to end at the edge, and the logits of all
windows over a pixel are averaged with equal weights before the class is chosen. Weights that fall
towards the border of a window would give other numbers than the published protocol, so there are
none.

Memory does not grow with the height of a tile: logits are summed in a buffer as high as one window,
and its rows leave as a band once no later window touches them.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from rsfm_jax.data.formats.windows import window_starts
from rsfm_jax.errors import UserError

Predict = Callable[[np.ndarray], Any]


class Windows(NamedTuple):
    """How tiles are cut: `size` and `stride` in pixels (mmsegmentation's 512 and 384)."""

    size: int = 512
    stride: int = 384

    def starts(self, length: int) -> list[int]:
        """First pixels of the windows over 0..length.

        Raises:
          UserError: a stride that leaves gaps between windows, or none.
        """
        if not 0 < self.stride <= self.size:
            raise UserError(
                f"window stride {self.stride} must be 1 to the window size, {self.size}"
            )
        return window_starts(length, self.size, self.stride)


class Pixels(Protocol):
    """An array [H, W, 3], or what reads a file piece by piece."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns first."""

    def __getitem__(self, place: Any) -> Any:
        """An array, of (rows, columns) as slices; None where there is nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tile:
    """A whole image: its name for messages and outputs, uint8 [H, W, 3], and its labels if any.

    image: needs `shape` and slicing only, so it may be read from a file piece by piece. A slice
      that is None holds nothing to predict: what only such windows see becomes class 0.
    mask: class indices uint8 [H, W].
    """

    name: str
    image: Pixels
    mask: np.ndarray | None = None


class Band(NamedTuple):
    """Finished rows of a tile: `classes` uint8 [h, W] stands at row `top`."""

    tile: Tile
    top: int
    classes: np.ndarray


def segment(
    tiles: Iterable[Tile], predict: Predict, classes: int, batch_size: int, windows: Windows
) -> Iterator[Band]:
    """Yields the class maps of all tiles as bands, top to bottom, one tile after the other.

    Args:
      tiles: read lazily, at most two batches of windows ahead.
      predict: windows uint8 [batch_size, size, size, 3] -> logits [batch_size, size, size, C].
        Every call has that shape, so it compiles once: a batch runs on into the next tile, and
        the very last one is filled up. A tile smaller than a window is continued by reflection.
      classes: C, at most 255.

    Raises:
      UserError: `predict` scores another number of classes.
    """
    ahead: collections.deque[Tile] = collections.deque()

    def cut() -> Iterator[np.ndarray | None]:
        for tile in tiles:
            ahead.append(tile)
            yield from _cut(tile.image, windows)

    stream = in_batches(cut(), predict, batch_size)
    for first in stream:
        tile = ahead.popleft()
        logits = itertools.chain([first], stream)
        top = 0
        for mean in blend(logits, tile.image.shape[0], tile.image.shape[1], classes, windows):
            yield Band(tile, top, mean.argmax(-1).astype(np.uint8))
            top += len(mean)


def class_maps(bands: Iterable[Band]) -> Iterator[tuple[Tile, np.ndarray]]:
    """Joins the bands of each tile: (tile, class map uint8 [H, W])."""
    for tile, parts in itertools.groupby(bands, key=lambda band: band.tile):
        yield tile, np.concatenate([band.classes for band in parts])


def blend(
    logits: Iterator[np.ndarray | None], height: int, width: int, classes: int, windows: Windows
) -> Iterator[np.ndarray]:
    """Means of overlapping windows' logits, float32 [h, W, C] bands that join to [H, W, C].

    Takes from `logits` exactly the windows of one tile, row by row: each [size, size, C], or None
    for zeros. Holds two buffers of [size, W, C] at most, whatever H is.
    """
    size = windows.size
    tops, lefts = windows.starts(height), windows.starts(width)
    padded_width = max(width, size)
    across = _coverage(lefts, size, padded_width)
    down = _coverage(tops, size, max(height, size))
    sums = np.zeros((size, padded_width, classes), np.float32)  # rows top .. top + size
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left in lefts:
            window = next(logits)
            if window is None:
                continue
            if window.shape != (size, size, classes):
                raise UserError(
                    f"the model gives {window.shape} scores a window, "
                    f"expected {(size, size, classes)}: {classes} classes"
                )
            sums[:, left : left + size] += window
        done = following - top
        counts = down[top:following, None, None] * across[None, :, None]
        yield (sums[:done] / counts)[:, :width]
        sums[: size - done] = sums[done:]
        sums[size - done :] = 0


def _coverage(starts: list[int], size: int, length: int) -> np.ndarray:
    """How many windows lie over each position, float32 [length]."""
    counts = np.zeros(length, np.float32)
    for start in starts:
        counts[start : start + size] += 1
    return counts


def _cut(image: Pixels, windows: Windows) -> Iterator[np.ndarray | None]:
    """Windows uint8 [size, size, 3] or None, row by row."""
    height, width = image.shape[:2]
    size = windows.size
    for top, left in itertools.product(windows.starts(height), windows.starts(width)):
        window = image[top : top + size, left : left + size]
        if window is not None:
            missing = [(0, size - length) for length in window.shape[:2]]
            window = np.pad(window, [*missing, (0, 0)], mode="reflect")
        yield window


def in_batches(
    windows: Iterator[np.ndarray | None], predict: Predict, batch_size: int
) -> Iterator[Any]:
    """What `predict` gives for each window, numpy arrays in its own structure; None for None.

    Only whole batches go to `predict`, the last one filled up. A batch is handed to the device
    before the results of the one before it are fetched, so that both work at once.
    """
    # For every window taken so far, whether it goes to `predict`.
    wanted: collections.deque[bool] = collections.deque()

    def present() -> Iterator[np.ndarray]:
        for window in windows:
            wanted.append(window is not None)
            if window is not None:
                yield window

    for result in _predicted(present(), predict, batch_size):
        while not wanted.popleft():
            yield None
        yield result
    yield from itertools.repeat(None, len(wanted))


def _predicted(windows: Iterator[np.ndarray], predict: Predict, batch_size: int) -> Iterator[Any]:
    # (results on the device, how many are real)
    running: collections.deque[tuple[Any, int]] = collections.deque()
    while chunk := list(itertools.islice(windows, batch_size)):
        filled = chunk + chunk[-1:] * (batch_size - len(chunk))
        running.append((predict(np.stack(filled)), len(chunk)))
        if len(running) > 1:
            yield from _fetch(*running.popleft())
    if running:
        yield from _fetch(*running.popleft())


def _fetch(results: Any, count: int) -> Iterator[Any]:
    fetched = jax.tree.map(np.asarray, results)
    for i in range(count):
        yield jax.tree.map(lambda x: x[i], fetched)  # noqa: B023 - used at once
