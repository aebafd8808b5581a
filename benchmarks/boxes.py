"""Accuracy and speed of the rotated-box operations beside other libraries.

    python benchmarks/boxes.py accuracy [pairs]   # IoU error against shapely, a million pairs
    python benchmarks/boxes.py speed              # this machine's table of docs/performance.md

Comparators: shapely (vectorised, with its spatial index), OpenCV (a loop over pairs; its own NMS),
mmcv (CPU operators) where it is built. Times are the best of several calls, after compilation.
"""

import sys
import time

import jax
import numpy as np

from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.boxes.iou import pairwise, rotated_iou
from rsfm_jax.boxes.nms import multiclass_nms, rotated_nms
from rsfm_jax.boxes.roi_align import pyramid_level, roi_align

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
    if kind == "tiny":  # the long side is 1e-3 px; half of them close to the origin
        a[:, 2:4] *= 1e-3 / a[:, 2:3]
        a[: n // 2, :2] *= 1e-5
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


THRESHOLD = 0.1
STRIDES = (4, 8, 16, 32)


def crowd(n, objects, rng):
    """Boxes and scores as a detector gives them before NMS: crowded around objects."""
    centre = rng.uniform(0, 1024, (objects, 2))[rng.integers(objects, size=n)]
    boxes = np.hstack([centre + rng.normal(0, 4, (n, 2)), rng.uniform(10, 60, (n, 2)),
                       rng.uniform(-1.5, 1.5, (n, 1))])  # fmt: skip
    return boxes.astype(np.float32), rng.random(n).astype(np.float32)


def milliseconds(call, *args, repeats=5):
    """Best time of `call(*args)`, which returns something to wait for."""
    jax.block_until_ready(call(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call(*args))
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def shapely_matrix(a, b):
    """IoU of all pairs whose bounds meet, found by shapely's tree: [N, 5], [M, 5] -> [N, M]."""
    import shapely

    first, second = shapely.polygons(to_corners(a)), shapely.polygons(to_corners(b))
    i, j = shapely.STRtree(second).query(first, predicate="intersects")
    common = shapely.area(shapely.intersection(first[i], second[j]))
    out = np.zeros((len(a), len(b)))
    out[i, j] = common / (shapely.area(first)[i] + shapely.area(second)[j] - common)
    return out


def opencv_iou(a, b):
    """IoU of two boxes (cx, cy, w, h, angle) by cv2.rotatedRectangleIntersection."""
    import cv2

    rectangles = [((x[0], x[1]), (x[2], x[3]), np.rad2deg(x[4])) for x in (a, b)]
    kind, corners = cv2.rotatedRectangleIntersection(*rectangles)
    common = 0.0 if kind == cv2.INTERSECT_NONE else cv2.contourArea(corners)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def opencv_matrix(a, b):
    """All pairs by a plain loop: [N, 5], [M, 5] -> [N, M]."""
    a, b = a.tolist(), b.tolist()
    return np.array([[opencv_iou(p, q) for q in b] for p in a])


def greedy_nms(boxes, scores, row_iou):
    """Plain greedy NMS: the best box left suppresses the rest, by `row_iou(box [1, 5], rest)`."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[row_iou(boxes[best][None], boxes[rest])[0] <= THRESHOLD]
    return kept


def opencv_nms(boxes, scores):
    """OpenCV's own rotated NMS: indices kept."""
    import cv2

    rectangles = [((b[0], b[1]), (b[2], b[3]), np.rad2deg(b[4])) for b in boxes.tolist()]
    return cv2.dnn.NMSBoxesRotated(rectangles, scores.tolist(), 0.0, THRESHOLD)


def speed():
    """Print the table of docs/performance.md for this machine."""
    print(f"{'operation':28} {'ours':>9}  others: ms (times ours)")
    rng = np.random.default_rng(0)
    _iou_rows(rng)
    _nms_rows(rng)
    _multiclass_row(rng)
    _roi_align_rows(rng)


def _row(name, ours, others):
    times = [f"{other} {ms:.0f} ({ms / ours:.0f}x)" for other, ms in others.items()]
    print(f"{name:28} {ours:6.1f} ms  {', '.join(times)}", flush=True)


def _iou_rows(rng):
    matrix = jax.jit(lambda a, b: pairwise(rotated_iou, a, b))
    for n, m in ((2000, 500), (2000, 2000)):
        a, b = crowd(n, n // 10, rng)[0], crowd(m, m // 10, rng)[0]
        others = {
            "shapely": milliseconds(shapely_matrix, a, b, repeats=2),
            # A twentieth of the loop over pairs, times 20.
            "OpenCV": 20 * milliseconds(opencv_matrix, a[: n // 20], b, repeats=1),
        }
        if mmcv := _mmcv():
            others["mmcv"] = milliseconds(mmcv.box_iou_rotated, *_tensors(a, b), repeats=2)
        _row(f"IoU {n} x {m}", milliseconds(matrix, a, b), others)


def _nms_rows(rng):
    ours = jax.jit(lambda boxes, scores: rotated_nms(boxes, scores, THRESHOLD))
    for n in (2000, 8000):
        boxes, scores = crowd(n, n // 10, rng)
        others = {
            "shapely": milliseconds(greedy_nms, boxes, scores, shapely_matrix, repeats=1),
            "OpenCV": milliseconds(opencv_nms, boxes, scores, repeats=1),
        }
        if mmcv := _mmcv():
            args = *_tensors(boxes, scores), THRESHOLD
            others["mmcv"] = milliseconds(mmcv.nms_rotated, *args, repeats=2)
        _row(f"NMS {n}", milliseconds(ours, boxes, scores), others)


def _multiclass_row(rng):
    boxes, _ = crowd(2000, 200, rng)
    scores = (rng.random((2000, 18)) ** 6).astype(np.float32)
    ours = jax.jit(lambda boxes, scores: multiclass_nms(boxes, scores, THRESHOLD, 0.05))
    index, label = np.nonzero(scores > 0.05)
    flat = boxes[index], scores[index, label]
    classes = [(flat[0][label == c], flat[1][label == c]) for c in range(18)]
    others = {"OpenCV": milliseconds(lambda: [opencv_nms(*one) for one in classes], repeats=1)}
    if mmcv := _mmcv():
        args = *_tensors(*flat), THRESHOLD, *_tensors(label)
        others["mmcv"] = milliseconds(mmcv.nms_rotated, *args, repeats=1)
    _row("NMS 2000 x 18 classes", milliseconds(ours, boxes, scores), others)


def _roi_align_rows(rng):
    pyramid = [rng.normal(size=(1, 1024 // s, 1024 // s, 256)).astype(np.float32) for s in STRIDES]
    rois = np.stack([*rng.uniform(0, 1024, (2, 512)), *10 ** rng.uniform(1, 2.7, (2, 512)),
                     rng.uniform(-1.5, 1.5, 512)], axis=1).astype(np.float32)  # fmt: skip
    forward = jax.jit(lambda pyramid: roi_align(pyramid, rois[None], STRIDES))
    both = jax.jit(jax.value_and_grad(lambda pyramid: forward(pyramid).sum()))
    others = {}, {}
    if mmcv := _mmcv():
        calls = _mmcv_roi_align(mmcv, pyramid, rois)
        others = [{"mmcv": milliseconds(call, repeats=2)} for call in calls]
    pyramid = jax.device_put(pyramid)
    _row("RoIAlign 512 x 256 forward", milliseconds(forward, pyramid), others[0])
    _row("  forward and backward", milliseconds(both, pyramid), others[1])


def _mmcv():
    """mmcv's operators, or None where mmcv is not built."""
    try:
        from mmcv import ops
    except ImportError:
        return None
    return ops


def _tensors(*arrays):
    import torch

    return [torch.as_tensor(array) for array in arrays]


def _mmcv_roi_align(mmcv, pyramid, rois):
    """Forward, and forward and backward: one operator a level, as mmrotate's extractor calls it."""
    level = np.asarray(pyramid_level(rois, 4))
    maps = [m.requires_grad_() for m in _tensors(*(p.transpose(0, 3, 1, 2) for p in pyramid))]
    parts = _tensors(*(np.pad(rois[level == i], ((0, 0), (1, 0))) for i in range(4)))

    def forward():
        levels = zip(maps, parts, STRIDES, strict=True)
        return [mmcv.roi_align_rotated(m, r, 7, 1 / s, 2, True, True) for m, r, s in levels]

    return forward, lambda: sum(out.sum() for out in forward()).backward()


if __name__ == "__main__":
    if sys.argv[1:2] == ["accuracy"]:
        accuracy(*map(int, sys.argv[2:3]))
    elif sys.argv[1:] == ["speed"]:
        speed()
    else:
        sys.exit(__doc__)
