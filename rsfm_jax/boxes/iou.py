"""Overlap of rotated boxes by the clamped-line integral: no vertices, no sorting, no hull.

Box `a` is moved into the frame of box `b`, which becomes [-X, X] x [-Y, Y]. The area of the
intersection is the sum over the four directed edges of `a` of the integral of clamp(y, -Y, Y) dx
over the part of the edge with x in [-X, X]; each has a closed form. Nothing branches on the
geometry and no configuration is degenerate, so values and gradients are finite everywhere, and
`1 - rotated_iou(a, b)` is a usable loss.

All functions work element by element on broadcasting boxes; `pairwise` gives the matrix. A box that
is not `is_valid` (padding, NaN, infinity) overlaps nothing: 0, with zero gradients.
"""

import jax
import jax.numpy as jnp

from rsfm_jax.boxes import compensated
from rsfm_jax.boxes.geometry import is_valid

# An edge advancing less than this in x (pixels) is vertical: its reciprocal, squared in the
# gradient, must not overflow float32, and its integral over x is nothing.
MIN_RUN = 1e-15


def pairwise(overlap, a, b):
    """Matrix of an overlap: [..., N, D], [..., M, D] -> [..., N, M]."""
    return overlap(a[..., :, None, :], b[..., None, :, :])


def rotated_iou(a, b):
    """Intersection over union of boxes [..., 5], in [0, 1]; accuracy in `docs/boxes.md`."""
    return _over(a, b, _rotated_intersection, _area, lambda area_a, area_b, i: area_a + area_b - i)


def rotated_iof(a, b):
    """Intersection over the area of `a` (the foreground): [..., 5] -> [...] in [0, 1]."""
    return _over(a, b, _rotated_intersection, _area, lambda area_a, area_b, i: area_a)


def hbb_iou(a, b):
    """Intersection over union of horizontal boxes [..., 4] -> [...] in [0, 1]."""
    return _over(a, b, _hbb_intersection, _hbb_area, lambda area_a, area_b, i: area_a + area_b - i)


def _over(a, b, intersection, area, denominator):
    valid = is_valid(a) & is_valid(b)
    filler = jnp.array([0, 0, 1, 1, 0][: a.shape[-1]], a.dtype)
    a, b = (jnp.where(is_valid(x)[..., None], x, filler) for x in (a, b))
    area_a, area_b = area(a), area(b)
    common = jnp.minimum(intersection(a, b), jnp.minimum(area_a, area_b))
    whole = denominator(area_a, area_b, common)
    return jnp.where(valid & (whole > 0), common / jnp.where(whole > 0, whole, 1), 0)


def _area(boxes):
    return boxes[..., 2] * boxes[..., 3]


def _hbb_area(hbb):
    return (hbb[..., 2] - hbb[..., 0]) * (hbb[..., 3] - hbb[..., 1])


def _hbb_intersection(a, b):
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    width, height = (jnp.maximum(high - low, 0)[..., i] for i in range(2))
    return width * height


def _rotated_intersection(a, b):
    """Area common to valid boxes: [..., 5] -> [...] square pixels."""
    x, y, cos, sin = _relative_pose(a[..., [0, 1, 4]], b[..., [0, 1, 4]])
    right, down = a[..., 2] / 2, a[..., 3] / 2
    half_width, half_height = b[..., 2] / 2, b[..., 3] / 2
    ux, uy, vx, vy = right * cos, right * sin, -down * sin, down * cos
    corners = [(x - ux - vx, y - uy - vy), (x + ux - vx, y + uy - vy),
               (x + ux + vx, y + uy + vy), (x - ux + vx, y - uy + vy)]  # fmt: skip
    edges = zip(corners, corners[1:] + corners[:1], strict=True)
    total = sum(_edge_integral(p, q, half_width, half_height) for p, q in edges)
    return jnp.abs(total)


@jax.custom_jvp
def _relative_pose(a, b):
    """Centre and direction of `a` in the frame of `b`: (x, y, angle) pairs -> x, y, cos, sin."""
    cos_a, sin_a = compensated.cos_sin(a[..., 2])
    cos_b, sin_b = compensated.cos_sin(b[..., 2])
    dx, dy = (compensated.difference(a[..., i], b[..., i]) for i in range(2))
    minus_sin_b, minus_cos_a = compensated.negative(sin_b), compensated.negative(cos_a)
    return (
        compensated.dot(cos_b, dx, sin_b, dy),
        compensated.dot(cos_b, dy, minus_sin_b, dx),
        compensated.dot(cos_a, cos_b, sin_a, sin_b),
        compensated.dot(sin_a, cos_b, minus_cos_a, sin_b),
    )


@_relative_pose.defjvp
def _relative_pose_jvp(primals, tangents):
    x, y, cos, sin = _relative_pose(*primals)
    cos_b, sin_b = jnp.cos(primals[1][..., 2]), jnp.sin(primals[1][..., 2])
    dx, dy, turn = (tangents[0][..., i] - tangents[1][..., i] for i in range(3))
    turn_b = tangents[1][..., 2]
    moved = (
        cos_b * dx + sin_b * dy + y * turn_b,
        cos_b * dy - sin_b * dx - x * turn_b,
        -sin * turn,
        cos * turn,
    )
    return (x, y, cos, sin), moved


def _edge_integral(p, q, half_width, half_height):
    """Integral of clamp(y, +-half_height) dx along the edge p -> q with x in +-half_width."""
    (px, py), (qx, qy) = p, q
    run = qx - px
    steep = jnp.abs(run) < MIN_RUN
    inverse = jnp.where(steep, 0, 1 / jnp.where(steep, 1, run))
    start, stop = jnp.clip(px, -half_width, half_width), jnp.clip(qx, -half_width, half_width)
    y_start = py + (start - px) * inverse * (qy - py)
    y_stop = py + (stop - px) * inverse * (qy - py)
    return (stop - start) * _clamped_mean(y_start, y_stop, half_height)


def _clamped_mean(y0, y1, bound):
    """Mean of clamp(y, -bound, bound) as y runs evenly from y0 to y1."""
    low, high = jnp.minimum(y0, y1), jnp.maximum(y0, y1)
    rise = high - low
    flat = rise < MIN_RUN
    inverse = jnp.where(flat, 0, 1 / jnp.where(flat, 1, rise))
    inside_low, inside_high = jnp.clip(low, -bound, bound), jnp.clip(high, -bound, bound)
    inside = (inside_high - inside_low) * inverse * (inside_low + inside_high) / 2
    above = jnp.clip((high - bound) * inverse, 0, 1)
    below = jnp.clip((-bound - low) * inverse, 0, 1)
    return jnp.where(flat, inside_low, inside + (above - below) * bound)
