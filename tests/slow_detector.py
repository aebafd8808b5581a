"""Targets, proposals and losses of Oriented R-CNN in plain numpy float64, object by object.

Written from mmrotate's definitions, sharing no code with ours; rotated overlaps are shapely's.
Nothing is drawn at random: every eligible candidate is taken, which the tests' counts allow.
"""

import math

import numpy as np
from shapely.geometry import Polygon

CLIP = abs(math.log(16 / 1000))


def anchors(image_side, strides):
    rows = []
    for stride in strides:
        for i in range(image_side // stride):
            for j in range(image_side // stride):
                for ratio in (0.5, 1, 2):
                    w, h = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                    x, y = j * stride, i * stride
                    rows.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    return np.array(rows)


def corners(box):
    x, y, w, h, angle = box
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    half = [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)]
    return np.array([x, y]) + np.array(half) @ turn.T


def bounds(box):
    points = corners(box)
    return np.concatenate([points.min(0), points.max(0)])


def iou(a, b):
    if len(a) == 4:
        side = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        common = max(side[0], 0) * max(side[1], 0)
        return common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)
    p, q = Polygon(corners(a)), Polygon(corners(b))
    return p.intersection(q).area / p.union(q).area


def centre_size(hbb):
    return (hbb[0] + hbb[2]) / 2, (hbb[1] + hbb[3]) / 2, hbb[2] - hbb[0], hbb[3] - hbb[1]


def smallest_turn(angle):  # in [-pi/2, pi/2)
    return (angle + math.pi / 2) % math.pi - math.pi / 2


def midpoint_offsets(anchor, box):
    px, py, pw, ph = centre_size(anchor)
    gx, gy, gw, gh = centre_size(bounds(box))
    points = corners(box)
    top = points[points[:, 1].argmin()]
    right = points[points[:, 0].argmax()]
    return np.array([(gx - px) / pw, (gy - py) / ph, math.log(gw / pw), math.log(gh / ph),
                     2 * (top[0] - gx) / gw, 2 * (right[1] - gy) / gh])  # fmt: skip


def from_midpoint_offsets(anchor, offsets):
    px, py, pw, ph = centre_size(anchor)
    x, y = px + offsets[0] * pw, py + offsets[1] * ph
    w, h = np.array([pw, ph]) * np.exp(np.clip(offsets[2:4], -CLIP, CLIP))
    a, b = np.clip(offsets[4:] / 2, -0.5, 0.5)
    half = [np.array([a * w, -h / 2]), np.array([w / 2, b * h])]
    longest = max(np.hypot(*v) for v in half)
    top, right = (v / np.hypot(*v) * longest for v in half)
    side, other = right - top, -top - right  # along the rectangle's sides
    if np.hypot(*side) < np.hypot(*other):
        side, other = other, side
    angle = smallest_turn(math.atan2(side[1], side[0]))
    return np.array([x, y, np.hypot(*side), np.hypot(*other), angle])


def rotated_deltas(region, box):
    (px, py, pw, ph, pa), (gx, gy, gw, gh, ga) = region, box
    x, y = gx - px, gy - py
    turn, quarter = smallest_turn(ga - pa), smallest_turn(ga - pa + math.pi / 2)
    if abs(turn) >= abs(quarter):
        gw, gh, turn = gh, gw, quarter
    deltas = [(math.cos(pa) * x + math.sin(pa) * y) / pw,
              (-math.sin(pa) * x + math.cos(pa) * y) / ph,
              math.log(gw / pw), math.log(gh / ph), turn]  # fmt: skip
    return np.array(deltas) / (0.1, 0.1, 0.2, 0.2, 0.1)


def smooth_l1(error, beta):
    error = np.abs(error)
    return np.where(error < beta, error**2 / (2 * beta), error - beta / 2).sum()


def first_stage(logits, offsets, boxes, image_side, strides):
    """Sums of objectness and offset loss of one image, its number of anchors and positives."""
    grid = anchors(image_side, strides)
    inside = (grid[:, :2] >= 0).all(1) & (grid[:, 2:] < image_side).all(1)
    overlap = np.array([[iou(a, bounds(b)) for b in boxes] for a in grid])
    overlap = overlap.reshape(len(grid), len(boxes)) * inside[:, None]
    owner = np.full(len(grid), -1)
    for i, row in enumerate(overlap):
        if len(boxes) and row.max() >= 0.7:
            owner[i] = row.argmax()
    ignored = ~inside | (overlap.max(axis=1, initial=0) >= 0.3)
    for g in range(len(boxes)):
        best = overlap[:, g].max()
        if best >= 0.3:
            owner[overlap[:, g] == best] = g
    positive = owner >= 0
    negative = ~ignored & ~positive
    signed = np.concatenate([-logits[positive], logits[negative]])
    objectness = np.log1p(np.exp(signed)).sum()
    regression = sum(
        smooth_l1(offsets[i] - midpoint_offsets(grid[i], boxes[owner[i]]), 1 / 9)
        for i in np.flatnonzero(positive)
    )
    count = max(positive.sum(), 1) + max(negative.sum(), 1)
    return objectness, regression, count, positive.sum()


def proposals(logits, offsets, image_side, strides, per_level, total):
    grid, kept, start = anchors(image_side, strides), [], 0
    for stride in strides:
        size = 3 * (image_side // stride) ** 2
        best = start + np.argsort(-logits[start : start + size], kind="stable")[:per_level]
        start += size
        level = []
        for i in best:
            box = from_midpoint_offsets(grid[i], offsets[i])
            if all(iou(bounds(box), bounds(other)) <= 0.8 for _, other in level):
                level.append((logits[i], box))
        kept += level
    kept.sort(key=lambda pair: -pair[0])
    return np.array([box for _, box in kept[:total]])


def regions(found, boxes, classes, background):
    """Boxes, classes and deltas (None for the background) that train the second stage."""
    rows = [(box, c, rotated_deltas(box, box)) for box, c in zip(boxes, classes, strict=True)]
    for region in found:
        overlap = np.array([iou(region, box) for box in boxes])
        if overlap.max(initial=0) >= 0.5:
            g = overlap.argmax()
            rows.append((region, classes[g], rotated_deltas(region, boxes[g])))
        else:
            rows.append((region, background, None))
    return rows


def second_stage(logits, deltas, rows):
    """Sums of class and box loss of one image."""
    logits = logits - logits.max(axis=1, keepdims=True)
    log_probability = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    classification = -sum(log_probability[i, c] for i, (_, c, _) in enumerate(rows))
    regression = sum(
        smooth_l1(deltas[i] - target, 1.0)
        for i, (_, _, target) in enumerate(rows)
        if target is not None
    )
    return classification, regression
