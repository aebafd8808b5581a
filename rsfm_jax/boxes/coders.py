"""Regression targets of Oriented R-CNN: midpoint offsets (RPN) and rotated deltas (RoI head).

Both answer zero targets where an input box is not `is_valid`; sides are taken as at least
`MIN_SIDE` before logarithms, so targets and gradients are finite. Decoding passes NaN deltas on to
the box, where `is_valid` finds them.
"""

import math

import jax.numpy as jnp

from rsfm_jax.boxes.geometry import (
    canonical,
    from_corners,
    is_valid,
    normalize_angle,
    to_corners,
    to_hbb,
)

MIN_SIDE = 1e-3  # pixels, as mmrotate clamps sides
MAX_LOG_RATIO = abs(math.log(16 / 1000))  # a decoded side is at most 62.5 times its anchor's
MIDPOINT_STDS = (1.0, 1.0, 1.0, 1.0, 0.5, 0.5)  # mmrotate oriented_rcnn configuration
DELTA_STDS = (0.1, 0.1, 0.2, 0.2, 0.1)
REFERENCE_TIE = 0.1  # pixels, mmrotate's MidpointOffsetCoder


def consistent_midpoints(corners):
    """x of the top vertex and y of the right one: [N, 4, 2] clockwise corners -> [N], [N].

    The right vertex is the next one clockwise after the top, also where two share the top: the
    targets of a box parallel to the axes then describe that box.
    """
    x, y = corners[..., 0], corners[..., 1]
    # Level to a slope of 1e-6 is a tie, which goes to the larger x.
    top = jnp.argmin(y - 1e-6 * x, axis=-1, keepdims=True)
    right = (top + 1) % 4
    return (jnp.take_along_axis(v, i, axis=-1)[..., 0] for v, i in ((x, top), (y, right)))


def reference_midpoints(corners):
    """As mmrotate has it, for parity: each is the largest among vertices within 0.1 px of the end.

    The two ties are broken apart: a quarter of long boxes within a degree of an axis get targets
    that decode to a line.
    """
    x, y = corners[..., 0], corners[..., 1]
    is_top = y - jnp.min(y, axis=-1, keepdims=True) <= REFERENCE_TIE
    is_right = jnp.max(x, axis=-1, keepdims=True) - x <= REFERENCE_TIE
    return (jnp.max(v, axis=-1, where=w, initial=-jnp.inf) for v, w in ((x, is_top), (y, is_right)))


def encode_midpoint(anchors, boxes, stds=MIDPOINT_STDS, midpoints=consistent_midpoints):
    """Targets (dx, dy, dw, dh, da, db): anchors [N, 4], boxes [N, 5] -> [N, 6].

    Centre and size of the box's hbb relative to the anchor, and where along the hbb's top and right
    sides the box touches them, from the middle, in units of the side.
    """
    valid = is_valid(anchors) & is_valid(boxes)
    anchors = jnp.where(valid[:, None], anchors, jnp.array([0.0, 0, 1, 1]))
    boxes = jnp.where(valid[:, None], boxes, jnp.array([0.5, 0.5, 1, 1, 0]))
    px, py, pw, ph = _centre_size(anchors)
    gx, gy, gw, gh = _centre_size(to_hbb(boxes))
    # About the centre, so that far from the origin no digits are lost.
    a, b = midpoints(to_corners(boxes.at[:, :2].set(0)))
    deltas = [(gx - px) / pw, (gy - py) / ph, jnp.log(gw / pw), jnp.log(gh / ph), a / gw, b / gh]
    return jnp.where(valid[:, None], jnp.stack(deltas, axis=-1) / jnp.array(stds), 0)


def decode_midpoint(anchors, deltas, stds=MIDPOINT_STDS):
    """Canonical boxes of predicted midpoint offsets: [N, 4], [N, 6] -> [N, 5]; not clipped.

    The offsets describe a parallelogram; its shorter diagonal is stretched to the longer one, which
    makes it a rectangle.
    """
    px, py, pw, ph = _centre_size(anchors)
    dx, dy, dw, dh, da, db = jnp.moveaxis(deltas * jnp.array(stds), -1, 0)
    w = pw * jnp.exp(jnp.clip(dw, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    h = ph * jnp.exp(jnp.clip(dh, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    top = jnp.stack([w * jnp.clip(da, -0.5, 0.5), -h / 2], axis=-1)  # from the centre
    right = jnp.stack([w / 2, h * jnp.clip(db, -0.5, 0.5)], axis=-1)
    long_top, long_right = (jnp.maximum(jnp.linalg.norm(v, axis=-1), MIN_SIDE / 2)
                            for v in (top, right))  # fmt: skip
    half = jnp.maximum(long_top, long_right)
    top, right = top * (half / long_top)[:, None], right * (half / long_right)[:, None]
    centre = jnp.stack([px + pw * dx, py + ph * dy], axis=-1)
    box = from_corners(jnp.stack([top, right, -top, -right], axis=-2))
    return jnp.concat([centre, box[:, 2:]], axis=-1)


def encode_rotated(proposals, boxes, stds=DELTA_STDS):
    """Targets (dx, dy, dw, dh, da) of boxes relative to rotated proposals: [N, 5] -> [N, 5].

    dx, dy along the proposal's own axes; the box's sides are exchanged where that needs the smaller
    turn (mmrotate DeltaXYWHAOBBoxCoder with proj_xy and edge_swap).
    """
    valid = is_valid(proposals) & is_valid(boxes)
    unit = jnp.array([0.0, 0, 1, 1, 0])
    proposals, boxes = (jnp.where(valid[:, None], x, unit) for x in (proposals, boxes))
    px, py, pw, ph, pa = _columns(proposals)
    gx, gy, gw, gh, ga = _columns(boxes)
    cos, sin = jnp.cos(pa), jnp.sin(pa)
    x, y = gx - px, gy - py
    turn, quarter_turn = normalize_angle(ga - pa), normalize_angle(ga - pa + math.pi / 2)
    keep = jnp.abs(turn) < jnp.abs(quarter_turn)
    w, h = jnp.where(keep, gw, gh), jnp.where(keep, gh, gw)
    deltas = [(cos * x + sin * y) / pw, (cos * y - sin * x) / ph, jnp.log(w / pw), jnp.log(h / ph),
              jnp.where(keep, turn, quarter_turn)]  # fmt: skip
    return jnp.where(valid[:, None], jnp.stack(deltas, axis=-1) / jnp.array(stds), 0)


def decode_rotated(proposals, deltas, image_size, stds=DELTA_STDS):
    """Canonical boxes of predicted rotated deltas: [N, 5], [N, 5] -> [N, 5].

    Centres are kept within `image_size` (height, width).
    """
    px, py, pw, ph, pa = _columns(proposals)
    dx, dy, dw, dh, da = jnp.moveaxis(deltas * jnp.array(stds), -1, 0)
    cos, sin = jnp.cos(pa), jnp.sin(pa)
    x = px + dx * pw * cos - dy * ph * sin
    y = py + dx * pw * sin + dy * ph * cos
    w = pw * jnp.exp(jnp.clip(dw, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    h = ph * jnp.exp(jnp.clip(dh, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    x, y = jnp.clip(x, 0, image_size[1] - 1), jnp.clip(y, 0, image_size[0] - 1)
    return canonical(jnp.stack([x, y, w, h, pa + da], axis=-1))


def _columns(boxes):
    x, y, w, h, angle = jnp.moveaxis(boxes, -1, 0)
    return x, y, jnp.maximum(w, MIN_SIDE), jnp.maximum(h, MIN_SIDE), angle


def _centre_size(hbb):
    x1, y1, x2, y2 = jnp.moveaxis(hbb, -1, 0)
    w, h = jnp.maximum(x2 - x1, MIN_SIDE), jnp.maximum(y2 - y1, MIN_SIDE)
    return (x1 + x2) / 2, (y1 + y2) / 2, w, h
