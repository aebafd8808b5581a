"""Accuracy and speed of the rotated-box operations beside other libraries.

    python benchmarks/boxes.py accuracy [pairs]   # IoU error against shapely, a million pairs
    python benchmarks/boxes.py speed              # this machine's table of docs/performance.md

Comparators: shapely, OpenCV, and mmcv's CPU operators where mmcv is built (torch is needed then).
"""


import jax
import numpy as np

from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.boxes.iou import rotated_iou

ACCURACY_KINDS = (
    "random", "identical", "jittered", "touching", "nested", "thin 10", "thin 100", "thin 1000",
    "tiny", "huge", "far from origin", "far apart", "grid",
)  # fmt: skip


def accuracy_pairs(kind, n, rng):
    """`n` pairs of float32 boxes of one kind: two arrays [n, 5]."""
    long = 10 ** rng.uniform(0.5, 2.5, n)  # 3 to 316 px
    short = long * rng.uniform(0.1, 1, n)
    centre = rng.uniform(0, 1000, (n, 2))
    a = np.stack([*centre.T, long, short, rng.uniform(-np.pi / 2, np.pi / 2, n)], axis=1)
    other_angle = rng.uniform(-np.pi / 2, np.pi / 2, n)
    if kind == "tiny":  # the long side is 1e-3 px; near the origin float32 can place them
        a[:, :4] *= 1e-3 / a[:, 2:3]
        long = a[:, 2]
    elif kind == "huge":
        a[:, 2:4] *= 1e3
        long = a[:, 2]
    elif kind == "far from origin":
        a[:, :2] += 1e5
    b = a.copy()
    if kind in ("random", "tiny", "huge", "far from origin"):
        b[:, :2] += rng.normal(0, 0.3, (n, 2)) * long[:, None]
        b[:, 2:4] *= rng.uniform(0.5, 2, (n, 2))
        b[:, 4] = other_angle
    elif kind == "jittered":
        b += rng.normal(0, 1e-4, (n, 5))
    elif kind == "touching":
        _move_along(b, a[:, 2])
    elif kind == "nested":
        b[:, 2:4] *= rng.uniform(0.1, 1, (n, 2))
    elif kind.startswith("thin"):
        _make_thin(a, b, float(kind.split()[1]), rng)
    elif kind == "far apart":
        b[:, rng.integers(2)] += 1e5
    elif kind == "grid":
        a, b = (_on_grid(n, rng) for _ in range(2))
    return a.astype(np.float32), b.astype(np.float32)


def _move_along(boxes, distance):
    boxes[:, 0] += distance * np.cos(boxes[:, 4])
    boxes[:, 1] += distance * np.sin(boxes[:, 4])


def _make_thin(a, b, aspect, rng):
    """Long thin boxes on nearly one line, 30 % of them described with the sides exchanged."""
    n = len(a)
    a[:, 3] = a[:, 2] / aspect
    b[:] = a
    slack = 10 ** rng.uniform(-3, 0, n)
    _move_along(b, rng.uniform(-1, 1, n) * a[:, 2])
    offset = rng.normal(0, 1, n) * slack * a[:, 3]
    b[:, 0] -= offset * np.sin(a[:, 4])
    b[:, 1] += offset * np.cos(a[:, 4])
    b[:, 4] += rng.normal(0, 1, n) * slack / aspect
    swap = rng.random(n) < 0.3
    b[swap] = b[swap][:, [0, 1, 3, 2, 4]] - [0, 0, 0, 0, np.pi / 2]


def _on_grid(n, rng):
    """Integer boxes at multiples of 90 degrees: shared edges and corners everywhere."""
    turns = rng.integers(-1, 2, (n, 1)) * (np.pi / 2)
    return np.hstack([rng.integers(0, 20, (n, 2)), rng.integers(1, 12, (n, 2)), turns])


def shapely_iou(a, b):
    """IoU in float64 of rows of the boxes as given: [N, 5], [N, 5] -> [N]."""
    import shapely

    a, b = a.astype(np.float64), b.astype(np.float64)
    middle = (a[:, :2] + b[:, :2]) / 2
    polygons = []
    for boxes in (a, b):
        boxes = np.hstack([boxes[:, :2] - middle, boxes[:, 2:]])
        polygons.append(shapely.polygons(to_corners(boxes)))
    common = shapely.area(shapely.intersection(*polygons))
    return common / (a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - common)


def accuracy(pairs=1_000_000):
    """Print the largest IoU error against shapely for every kind of pair."""
    rng = np.random.default_rng(0)
    iou = jax.jit(rotated_iou)
    for kind in ACCURACY_KINDS:
        a, b = accuracy_pairs(kind, pairs // len(ACCURACY_KINDS), rng)
        truth = shapely_iou(a, b)
        error = np.abs(np.asarray(iou(a, b), np.float64) - truth)
        print(f"{kind:16} {len(a)} pairs, mean IoU {truth.mean():.3f}, max error {error.max():.1e}")
