"""Overlap of rotated boxes by the clamped-line integral: no vertices, no sorting, no hull.

Box `a` is moved into the frame of box `b`, which becomes [-X, X] x [-Y, Y]. The area of the
intersection is the sum over the four directed edges of `a` of the integral of clamp(y, -Y, Y) dx
over the part of the edge with x in [-X, X]; each has a closed form. Nothing branches on the
geometry and no configuration is degenerate.

The derivative is that of a region whose border moves: every edge contributes the length of it that
lies inside the other box times its outward speed. It is bounded everywhere, so `1 - rotated_iou` is
a usable loss, also for boxes that coincide.

All functions work element by element on broadcasting boxes; `pairwise` gives the matrix. A box that
is not `is_valid` (padding, NaN, infinity) overlaps nothing: 0, with zero gradients. Rows that are
not boxes by their number of columns raise ValueError.
"""

import jax
import jax.numpy as jnp

from rsfm_jax.boxes import compensated
from rsfm_jax.boxes.geometry import is_valid

# Steps smaller than this (pixels, or sines) are none: what is divided by them stays in float32.
TINY = 1e-15


def pairwise(overlap, a, b):
    """Matrix of an overlap: [..., N, D], [..., M, D] -> [..., N, M]."""
    return overlap(a[..., :, None, :], b[..., None, :, :])


def rotated_iou(a, b):
    """Intersection over union of boxes [..., 5], in [0, 1]; accuracy in `docs/boxes.md`."""
    a, b, valid = _only_valid(a, b, columns=5)
    common = _rotated_intersection(a, b)
    return _ratio(common, _rotated_area(a) + _rotated_area(b) - common, valid)


def rotated_iof(a, b):
    """Intersection over the area of `a` (the foreground): [..., 5] -> [...] in [0, 1]."""
    a, b, valid = _only_valid(a, b, columns=5)
    return _ratio(_rotated_intersection(a, b), _rotated_area(a), valid)


def hbb_iou(a, b):
    """Intersection over union of horizontal boxes [..., 4] -> [...] in [0, 1]."""
    a, b, valid = _only_valid(a, b, columns=4)
    overlap = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    common = jnp.prod(jnp.maximum(overlap, 0), axis=-1)
    area_a, area_b = (jnp.prod(x[..., 2:] - x[..., :2], axis=-1) for x in (a, b))
    return _ratio(common, area_a + area_b - common, valid)


def _only_valid(a, b, columns):
    """The boxes in float32 or wider, unit boxes for invalid ones, and where both are valid."""
    if not a.shape[-1] == b.shape[-1] == columns:
        raise ValueError(f"expected boxes [..., {columns}], got {a.shape} and {b.shape}")
    dtype = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    a, b = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
    valid_a, valid_b = is_valid(a), is_valid(b)
    unit = jnp.array([0, 0, 1, 1, 0][:columns], dtype)
    a = jnp.where(valid_a[..., None], a, unit)
    b = jnp.where(valid_b[..., None], b, unit)
    return a, b, valid_a & valid_b


def _ratio(part, whole, valid):
    """part / whole; 0 where not valid or where areas underflow."""
    usable = valid & (whole > 0)
    return jnp.where(usable, part / jnp.where(usable, whole, 1), 0)


def _rotated_area(boxes):
    return boxes[..., 2] * boxes[..., 3]


@jax.custom_jvp
def _rotated_intersection(a, b):
    """Area common to valid boxes: [..., 5] -> [...] square pixels."""
    x, y, cos, sin = _relative_pose(a, b)
    right, down = a[..., 2] / 2, a[..., 3] / 2
    half_width, half_height = b[..., 2] / 2, b[..., 3] / 2
    ux, uy, vx, vy = right * cos, right * sin, -down * sin, down * cos
    corners = [(x - ux - vx, y - uy - vy), (x + ux - vx, y + uy - vy),
               (x + ux + vx, y + uy + vy), (x - ux + vx, y - uy + vy)]  # fmt: skip
    edges = zip(corners, corners[1:] + corners[:1], strict=True)
    area = jnp.abs(sum(_edge_integral(p, q, half_width, half_height) for p, q in edges))
    return jnp.minimum(area, jnp.minimum(_rotated_area(a), _rotated_area(b)))


def _relative_pose(a, b):
    """Centre of `a` in the frame of `b` and cosine and sine of the angle between them."""
    (cos_a, sin_a), (cos_b, sin_b) = (compensated.cos_sin(box[..., 4]) for box in (a, b))
    dx, dy = (compensated.difference(a[..., i], b[..., i]) for i in range(2))
    minus_sin_b, minus_cos_a = compensated.negative(sin_b), compensated.negative(cos_a)
    return (
        compensated.dot(cos_b, dx, sin_b, dy),
        compensated.dot(cos_b, dy, minus_sin_b, dx),
        compensated.dot(cos_a, cos_b, sin_a, sin_b),
        compensated.dot(sin_a, cos_b, minus_cos_a, sin_b),
    )


def _edge_integral(p, q, half_width, half_height):
    """Integral of clamp(y, +-half_height) dx along the edge p -> q with x in +-half_width."""
    (px, py), (qx, qy) = p, q
    slope = (qy - py) * _inverse(qx - px)
    start, stop = jnp.clip(px, -half_width, half_width), jnp.clip(qx, -half_width, half_width)
    y_start, y_stop = py + (start - px) * slope, py + (stop - px) * slope
    return (stop - start) * _clamped_mean(y_start, y_stop, half_height)


def _inverse(x):
    """1 / x, but 0 for steps that are none."""
    none = jnp.abs(x) < TINY
    return jnp.where(none, 0, 1 / jnp.where(none, 1, x))


def _clamped_mean(y0, y1, bound):
    """Mean of clamp(y, -bound, bound) as y runs evenly from y0 to y1."""
    low, high = jnp.minimum(y0, y1), jnp.maximum(y0, y1)
    inverse = _inverse(high - low)
    inside_low, inside_high = jnp.clip(low, -bound, bound), jnp.clip(high, -bound, bound)
    inside = (inside_high - inside_low) * inverse * (inside_low + inside_high) / 2
    above = jnp.clip((high - bound) * inverse, 0, 1)
    below = jnp.clip((-bound - low) * inverse, 0, 1)
    return jnp.where(inverse == 0, inside_low, inside + (above - below) * bound)


@_rotated_intersection.defjvp
def _rotated_intersection_jvp(primals, tangents):
    (a, b), (a_dot, b_dot) = primals, tangents
    swept = _swept_area(a, a_dot, _relative_pose(a, b), b)
    swept += _swept_area(b, b_dot, _relative_pose(b, a), a)
    return _rotated_intersection(a, b), swept


def _swept_area(box, box_dot, pose, other):
    """Area that the edges of `box` inside `other` sweep outward as `box` changes by `box_dot`."""
    x, y, cos, sin = pose  # of `box` in the frame of `other`
    half_w, half_h = box[..., 2] / 2, box[..., 3] / 2
    moved_x, moved_y, grown_w, grown_h, turned = (box_dot[..., i] for i in range(5))
    box_cos, box_sin = jnp.cos(box[..., 4]), jnp.sin(box[..., 4])
    along, across = box_cos * moved_x + box_sin * moved_y, box_cos * moved_y - box_sin * moved_x
    total = 0
    for side in (-1, 1):
        reach = side * half_w  # the left or right edge, running along the box's height
        start, run = (x + reach * cos, y + reach * sin), (-sin, cos)
        length, middle = _part_inside(start, run, half_h, other)
        total += length * (side * (along - turned * middle) + grown_w / 2)
        reach = side * half_h  # the upper or lower edge, running along its width
        start, run = (x - reach * sin, y + reach * cos), (cos, sin)
        length, middle = _part_inside(start, run, half_w, other)
        total += length * (side * (across + turned * middle) + grown_h / 2)
    return total


def _part_inside(start, run, reach, other):
    """Of the points start + t run, |t| <= reach: how much lies in `other`, and the middle t."""
    low, high, share = -reach, reach, 1.0
    for at, step, half in zip(start, run, (other[..., 2] / 2, other[..., 3] / 2), strict=True):
        parallel = jnp.abs(step) < TINY
        inverse = _inverse(step)
        ends = (-half - at) * inverse, (half - at) * inverse
        low = jnp.where(parallel, low, jnp.maximum(low, jnp.minimum(*ends)))
        high = jnp.where(parallel, high, jnp.minimum(high, jnp.maximum(*ends)))
        # An edge that lies on the border counts half: the middle of its one-sided derivatives.
        share *= jnp.where(parallel, (jnp.sign(half - at) + jnp.sign(half + at)) / 2, 1)
    return share * jnp.maximum(high - low, 0), (low + high) / 2
