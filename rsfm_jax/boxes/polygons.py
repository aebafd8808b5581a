"""Overlap of labelled quadrilaterals in numpy float64, for evaluation and merging.

Twice the region under an edge is easier than a region: the area common to two polygons is the sum
over all pairs of their edges of the area under the lower one of the two, above a common base and
over the x both span, counted negative where the edges run in opposite senses. It is the integral of
the product of the winding numbers, as the DOTA devkit's `polyiou` has it, for any direction and for
crossed quadrilaterals.
"""

import numpy as np

CHUNK = 8192  # pairs at a time: bounds the memory to some 30 MB


def polygon_iou(p, q):
    """Intersection over union of polygon pairs: [N, K, 2], [N, L, 2] -> [N] in [0, 1].

    Polygons of no area, or with NaN or infinite corners, overlap nothing.
    """
    out = np.zeros(len(p))
    for i in range(0, len(p), CHUNK):
        out[i : i + CHUNK] = _iou(*(np.asarray(x[i : i + CHUNK], np.float64) for x in (p, q)))
    return out


def _iou(p, q):
    usable = np.isfinite(p).all(axis=(1, 2)) & np.isfinite(q).all(axis=(1, 2))
    p, q = np.where(usable[:, None, None], p, 0), np.where(usable[:, None, None], q, 0)
    origin = (p.mean(axis=1, keepdims=True) + q.mean(axis=1, keepdims=True)) / 2
    p, q = p - origin, q - origin
    area_p, area_q = _signed_area(p), _signed_area(q)
    common = _signed_intersection(p, q) * np.sign(area_p) * np.sign(area_q)
    area_p, area_q = np.abs(area_p), np.abs(area_q)
    common = np.clip(common, 0, np.minimum(area_p, area_q))
    union = area_p + area_q - common
    return np.divide(common, union, out=np.zeros_like(union), where=usable & (union > 0))


def _signed_area(p):
    x, y = p[..., 0], p[..., 1]
    return (x * np.roll(y, -1, axis=-1) - np.roll(x, -1, axis=-1) * y).sum(axis=-1) / 2


def _signed_intersection(p, q):
    """Integral of the product of the two winding numbers (up to the sign of directions)."""
    base = np.minimum(p[..., 1].min(axis=1), q[..., 1].min(axis=1))
    first, second = _edges(p)[:, :, None], _edges(q)[:, None]  # [N, K, 1, 2, 2], [N, 1, L, 2, 2]
    low, high = (
        np.maximum(first[..., 0].min(axis=-1), second[..., 0].min(axis=-1)),
        np.minimum(first[..., 0].max(axis=-1), second[..., 0].max(axis=-1)),
    )
    # Heights of both edges above the base at both ends of the x they share: [N, K, L].
    heights = [[_height(edge, x) - base[:, None, None] for x in (low, high)]
               for edge in (first, second)]  # fmt: skip
    lower = _mean_of_lower(*heights)
    sense = np.sign(first[..., 0, 0] - first[..., 1, 0]) * np.sign(
        second[..., 0, 0] - second[..., 1, 0]
    )
    return (sense * np.maximum(high - low, 0) * lower).sum(axis=(1, 2))


def _edges(p):
    return np.stack([p, np.roll(p, -1, axis=1)], axis=2)  # [N, K, end, xy]


def _height(edge, x):
    """y of an edge at x, which lies within it (anything where it is vertical)."""
    (x0, y0), (x1, y1) = ((edge[..., end, 0], edge[..., end, 1]) for end in (0, 1))
    run = x1 - x0
    share = np.divide(x - x0, run, out=np.zeros(np.broadcast(x, run).shape), where=run != 0)
    return y0 + np.clip(share, 0, 1) * (y1 - y0)


def _mean_of_lower(first, second):
    """Mean over x of the lower of two lines given by their heights at both ends."""
    start, stop = first[0] - second[0], first[1] - second[1]
    lower = (np.minimum(first[0], second[0]) + np.minimum(first[1], second[1])) / 2
    crossing = start * stop < 0
    start, stop = np.abs(start), np.abs(stop)
    bump = np.divide(start * stop, start + stop, out=np.zeros_like(start), where=crossing)
    return lower + bump / 2
