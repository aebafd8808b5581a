"""Detections of overlapping tiles become those of the whole image, while it is being read.

Greedy non-maximum suppression within each class, in float64, exactly as if all detections of the
image were known at once: a box leaves when neither it nor any box it is linked to by overlaps can
meet a box that is still to come.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rsfm_jax.boxes.geometry import to_corners, to_hbb
from rsfm_jax.boxes.polygons import polygon_iou

CHUNK = 2048  # boxes whose neighbours are looked for at a time: bounds the memory


class Found(NamedTuple):
    """Detections in pixels of the whole image."""

    boxes: np.ndarray  # [N, 5] float64, le90
    scores: np.ndarray  # [N] float32
    classes: np.ndarray  # [N] int

    def where(self, rows: np.ndarray) -> "Found":
        """The rows of a mask or an index array."""
        return Found(*(column[rows] for column in self))


NOTHING = Found(np.zeros((0, 5)), np.zeros(0, np.float32), np.zeros(0, np.int64))


def join(parts: list[Found]) -> Found:
    """All rows in one."""
    return Found(*(np.concatenate(columns) for columns in zip(NOTHING, *parts, strict=True)))


class Merger:
    """Takes detections from the top of an image to its bottom, gives back merged ones.

    Args:
      threshold: overlap (IoU) above which the lower score goes; of equal ones the later.
    """

    def __init__(self, threshold: float):
        self._threshold = threshold
        self._waiting: list[Found] = []

    def add(self, found: Found) -> None:
        """Takes the detections of a tile."""
        self._waiting.append(found)

    def finish(self, horizon: float) -> Found:
        """What is final, given that boxes still to come lie below the row `horizon` (pixels)."""
        found = join(self._waiting)
        count = len(found.scores)
        winners, losers = suppressing_pairs(found, self._threshold)
        links = coo_array((np.ones(len(winners)), (winners, losers)), shape=(count, count))
        _, group = connected_components(links, directed=False)
        waits = np.zeros(count, bool)
        waits[group[to_hbb(found.boxes)[:, 3] > horizon]] = True  # by group
        waits = waits[group]
        self._waiting = [found.where(waits)]
        return found.where(~waits & greedy(count, winners, losers))


def greedy(count: int, winners: np.ndarray, losers: np.ndarray) -> np.ndarray:
    """Which boxes stay: [count] bool. A box goes if and only if one that stays wins over it."""
    keep = np.ones(count, bool)
    while True:  # each round settles at least the next box in order of rank
        new = np.ones(count, bool)
        new[losers[keep[winners]]] = False
        if (new == keep).all():
            return keep
        keep = new


def suppressing_pairs(found: Found, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices [P], [P] of boxes of one class that overlap too much, the better one first."""
    corners = to_corners(found.boxes)
    rank = np.empty(len(found.scores), np.int64)
    rank[np.argsort(-found.scores, kind="stable")] = np.arange(len(rank))
    pairs = [np.zeros((2, 0), np.int64)]
    for i, j in _touching(to_hbb(found.boxes)):
        same = found.classes[i] == found.classes[j]
        i, j = i[same], j[same]
        over = polygon_iou(corners[i], corners[j]) > threshold
        pairs.append(np.stack([i[over], j[over]]))
    i, j = np.concatenate(pairs, axis=1)
    better = rank[i] < rank[j]
    return np.where(better, i, j), np.where(better, j, i)


def _touching(hbb: np.ndarray):
    """Yields indices of the pairs whose horizontal bounds [N, 4] meet, each pair once.

    In order of left edges, a box can only meet those that follow before its right edge: few,
    since what waits is a band across the image.
    """
    order = np.argsort(hbb[:, 0], kind="stable")
    x1, y1, x2, y2 = hbb[order].T
    stops = np.searchsorted(x1, x2)
    for start in range(0, len(order), CHUNK):
        first = np.arange(start, min(start + CHUNK, len(order)))
        counts = np.maximum(stops[first] - first - 1, 0)
        begins = np.cumsum(counts) - counts
        i = np.repeat(first, counts)
        j = i + 1 + np.arange(counts.sum()) - np.repeat(begins, counts)
        meet = (y1[i] < y2[j]) & (y1[j] < y2[i])
        yield order[i[meet]], order[j[meet]]
