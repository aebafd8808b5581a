"""Detections, ground truths and which detection finds which object (DOTA Task 1)."""

from dataclasses import dataclass, fields

import numpy as np

from rsfm_jax.boxes.polygons import polygon_iou
from rsfm_jax.errors import UserError


@dataclass(frozen=True)
class _Rows:
    """Arrays of one row an object, all of one length."""

    def __post_init__(self):
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{type(self).__name__} needs arrays of one length, got {lengths}")
        if self.polygons.shape[1:] != (4, 2):
            raise UserError(
                f"{type(self).__name__}.polygons must have shape [N, 4, 2], "
                f"got {list(self.polygons.shape)}"
            )

    def __len__(self):
        return len(self.polygons)

    def where(self, rows):
        """The rows of a mask or an index array."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Detections(_Rows):
    """Detected objects of any number of images, in whole-image pixels."""

    image: np.ndarray  # [N] names or numbers
    polygons: np.ndarray  # [N, 4, 2] corners x, y
    labels: np.ndarray  # [N] int, index of the class
    scores: np.ndarray  # [N] float, higher is surer

    def __post_init__(self):
        super().__post_init__()
        if np.isnan(self.scores).any():
            raise UserError(f"{int(np.isnan(self.scores).sum())} of the detections' scores are NaN")


@dataclass(frozen=True)
class Truths(_Rows):
    """Labelled objects of any number of images."""

    image: np.ndarray  # [M] names or numbers, as in Detections
    polygons: np.ndarray  # [M, 4, 2]
    labels: np.ndarray  # [M] int
    difficult: np.ndarray  # [M] bool


@dataclass(frozen=True)
class Matches:
    """For each detection of one class, in order of falling score, the object it overlaps most.

    Equal scores keep the order they came in.
    """

    scores: np.ndarray  # [N]
    overlap: np.ndarray  # [N] IoU, 0 where there is none
    truth: np.ndarray  # [N] index into the truths of the class, -1 where there is none
    difficult: np.ndarray  # [M] bool, of the truths

    def outcome(self, threshold):
        """Which count as found and which as false at an IoU threshold: [N] bool, [N] bool.

        Only the object of largest overlap is looked at, difficult and already found ones included,
        and the overlap must exceed the threshold. A difficult object makes the detection count for
        nothing; an object found before makes it false.
        """
        hit = self.overlap > threshold
        ignored = np.zeros_like(hit)
        ignored[hit] = self.difficult[self.truth[hit]]
        claims = np.flatnonzero(hit & ~ignored)
        _, first = np.unique(self.truth[claims], return_index=True)
        found = np.zeros_like(hit)
        found[claims[first]] = True
        return found, ~found & ~ignored


def match(detections, truths, skip_difficult):
    """Matches of one class: Detections and Truths that hold only that class -> Matches.

    Without `skip_difficult` every object is an ordinary one.
    """
    order = np.argsort(-detections.scores, kind="stable")
    overlap, truth = best_overlaps(detections, truths)
    difficult = truths.difficult.astype(bool) & skip_difficult
    return Matches(detections.scores[order], overlap[order], truth[order], difficult)


def best_overlaps(detections, truths):
    """Largest IoU with a truth of the same image, and its index (-1: none touches): [N], [N].

    The first of equal overlaps is taken.
    """
    overlap, truth = np.zeros(len(detections)), np.full(len(detections), -1)
    for rows, others in _by_image(detections.image, truths.image):
        matrix = overlap_matrix(detections.polygons[rows], truths.polygons[others])
        best = matrix.argmax(axis=1)
        overlap[rows] = matrix[np.arange(len(rows)), best]
        truth[rows] = np.where(overlap[rows] > 0, others[best], -1)
    return overlap, truth


def _by_image(images, other_images):
    """For each image in both: the indices of its rows in either array."""
    groups, other_groups = _groups(images), _groups(other_images)
    return [(rows, other_groups[name]) for name, rows in groups.items() if name in other_groups]


def _groups(images):
    names, index, counts = np.unique(images, return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(index, kind="stable"), np.cumsum(counts)[:-1])
    return dict(zip(names.tolist(), rows, strict=False))


def overlap_matrix(p, q):
    """IoU of all pairs of two lists of quadrilaterals: [N, 4, 2], [M, 4, 2] -> [N, M].

    Only pairs whose horizontal bounds touch are computed.
    """
    low = np.maximum(p.min(axis=1)[:, None], q.min(axis=1))
    high = np.minimum(p.max(axis=1)[:, None], q.max(axis=1))
    i, j = np.nonzero((low < high).all(axis=-1))
    matrix = np.zeros((len(p), len(q)))
    matrix[i, j] = polygon_iou(p[i], q[j])
    return matrix


def best_first_pairs(detections, truths, threshold):
    """One-to-one pairs of all classes, largest IoU first, above a threshold: indices [K], [K]."""
    pairs = [(np.zeros(0), np.zeros(0, int), np.zeros(0, int))]
    for rows, others in _by_image(detections.image, truths.image):
        matrix = overlap_matrix(detections.polygons[rows], truths.polygons[others])
        i, j = np.nonzero(matrix > threshold)
        pairs.append((matrix[i, j], rows[i], others[j]))
    overlap, detected, true = (np.concatenate(column) for column in zip(*pairs, strict=True))
    chosen, used, found = [], set(), set()
    for k in np.argsort(-overlap, kind="stable"):
        if detected[k] not in used and true[k] not in found:
            used.add(detected[k])
            found.add(true[k])
            chosen.append(k)
    return detected[chosen], true[chosen]
