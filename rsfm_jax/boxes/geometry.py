"""Boxes, corners and horizontal boxes: conversions, flips, scaling, rotation.

Every function takes a numpy or a JAX array and answers in kind, so that the host's label pipeline
(numpy, float64) and the model (JAX, float32) share one definition.

Convention (the "le90" of mmrotate): `(cx, cy, w, h, angle)`; x right, y down, pixels; `angle` in
radians, clockwise on screen, from the x axis to the side `w`; canonical boxes have `w >= h` and
`-pi/2 <= angle < pi/2`. Horizontal boxes ("hbb") are `(x1, y1, x2, y2)`.
"""

import itertools
import math

# No image is this large: a box with a number beyond it (or NaN, or infinite) is not a box.
MAX_COORDINATE = 1e9


def is_valid(boxes):
    """True where a box can be used: [..., 5] or [..., 4] -> [...] bool.

    False for NaN, infinite or absurd (> 1e9) numbers and for sides that are zero or negative.
    All-zero rows therefore serve as padding.
    """
    xp = boxes.__array_namespace__()
    width, height = _sides(boxes)
    return xp.all(xp.abs(boxes) < MAX_COORDINATE, axis=-1) & (width > 0) & (height > 0)


def _sides(boxes):
    if boxes.shape[-1] == 4:
        return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return boxes[..., 2], boxes[..., 3]


def canonical(boxes):
    """The same rectangles with `w >= h` and `-pi/2 <= angle < pi/2`: [..., 5] -> [..., 5].

    A square keeps its axes: the sides are swapped only where `w < h`.
    """
    xp = boxes.__array_namespace__()
    x, y, w, h, angle = (boxes[..., i] for i in range(5))
    swap = w < h
    angle = normalize_angle(xp.where(swap, angle + math.pi / 2, angle))
    return xp.stack([x, y, xp.where(swap, h, w), xp.where(swap, w, h), angle], axis=-1)


def normalize_angle(angle):
    """Radians modulo pi, into [-pi/2, pi/2) also after rounding."""
    xp = angle.__array_namespace__()
    angle = angle - math.pi * xp.floor(angle / math.pi + 0.5)
    angle = xp.where(angle >= math.pi / 2, angle - math.pi, angle)
    return xp.where(angle < -math.pi / 2, -math.pi / 2, angle)


def to_corners(boxes):
    """Corners in clockwise order on screen: [..., 5] -> [..., 4, 2].

    For angle 0: top left, top right, bottom right, bottom left.
    """
    xp = boxes.__array_namespace__()
    x, y, w, h, angle = (boxes[..., i, None] for i in range(5))
    right, down = _signs(boxes)
    u, v = right * w / 2, down * h / 2  # [..., 4] along the box's own axes
    cos, sin = xp.cos(angle), xp.sin(angle)
    return xp.stack([x + u * cos - v * sin, y + u * sin + v * cos], axis=-1)


def _signs(like):
    xp = like.__array_namespace__()
    signs = xp.asarray([[-1, 1, 1, -1], [-1, -1, 1, 1]], dtype=like.dtype)
    return signs[0], signs[1]


def from_corners(corners):
    """Canonical box of a rectangle's corners in either direction: [..., 4, 2] -> [..., 5].

    The angle is that of the longer of the first two sides. For a quadrilateral that is no rectangle
    use `min_area_rectangle`.
    """
    xp = corners.__array_namespace__()
    first, second, third = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    side, next_side = second - first, third - second
    w, h = _length(side), _length(next_side)
    long = xp.where((w >= h)[..., None], side, next_side)
    centre = (first + third) / 2
    angle = normalize_angle(_angle_of(long))
    shape = xp.stack([xp.maximum(w, h), xp.minimum(w, h), angle], axis=-1)
    return xp.concat([centre, shape], axis=-1)


def _length(vector):
    """Euclidean length whose gradient is 0, not NaN, at the zero vector."""
    xp = vector.__array_namespace__()
    square = xp.sum(vector * vector, axis=-1)
    return xp.sqrt(xp.where(square > 0, square, 1)) * (square > 0)


def _angle_of(vector):
    """atan2 whose value and gradient are 0 at the zero vector."""
    xp = vector.__array_namespace__()
    zero = xp.all(vector == 0, axis=-1)
    return xp.arctan2(xp.where(zero, 0, vector[..., 1]), xp.where(zero, 1, vector[..., 0]))


def to_hbb(boxes):
    """Tightest horizontal boxes `(x1, y1, x2, y2)`: [..., 5] -> [..., 4]."""
    xp = boxes.__array_namespace__()
    x, y, w, h, angle = (boxes[..., i] for i in range(5))
    cos, sin = xp.abs(xp.cos(angle)), xp.abs(xp.sin(angle))
    right, down = (w * cos + h * sin) / 2, (w * sin + h * cos) / 2
    return xp.stack([x - right, y - down, x + right, y + down], axis=-1)


def from_hbb(hbb):
    """Canonical rotated boxes of horizontal ones: [..., 4] -> [..., 5]."""
    xp = hbb.__array_namespace__()
    x1, y1, x2, y2 = (hbb[..., i] for i in range(4))
    box = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, xp.zeros_like(x1)]
    return canonical(xp.stack(box, axis=-1))


def min_area_rectangle(points):
    """Canonical box of least area around a few points: [..., K, 2] -> [..., 5].

    An optimal rectangle lies along an edge of the convex hull, and every hull edge joins two of the
    points; so trying the K (K - 1) / 2 directions between points is exact and needs neither the
    hull nor OpenCV, whose range of angles changed between versions. Collinear points give `h = 0`.
    """
    xp = points.__array_namespace__()
    origin = xp.mean(points, axis=-2, keepdims=True)
    points = points - origin
    pairs = xp.asarray(list(itertools.combinations(range(points.shape[-2]), 2)))
    angle = _angle_of(points[..., pairs[:, 1], :] - points[..., pairs[:, 0], :])  # [..., P]
    cos, sin = xp.cos(angle)[..., None], xp.sin(angle)[..., None]
    x, y = points[..., None, :, 0], points[..., None, :, 1]
    along, across = x * cos + y * sin, y * cos - x * sin  # [..., P, K]
    w, h = (xp.max(p, axis=-1) - xp.min(p, axis=-1) for p in (along, across))
    u, v = ((xp.max(p, axis=-1) + xp.min(p, axis=-1)) / 2 for p in (along, across))
    cos, sin = cos[..., 0], sin[..., 0]
    boxes = xp.stack([u * cos - v * sin, u * sin + v * cos, w, h, angle], axis=-1)  # [..., P, 5]
    best = xp.argmin(w * h, axis=-1)[..., None, None]
    box = xp.take_along_axis(boxes, best, axis=-2)[..., 0, :]
    return canonical(xp.concat([box[..., :2] + origin[..., 0, :], box[..., 2:]], axis=-1))


def flip_horizontal(boxes, image_width):
    """Mirror left to right in an image `image_width` pixels wide (x -> width - x)."""
    return _flip(boxes, x=image_width - boxes[..., 0], y=boxes[..., 1])


def flip_vertical(boxes, image_height):
    """Mirror top to bottom in an image `image_height` pixels high (y -> height - y)."""
    return _flip(boxes, x=boxes[..., 0], y=image_height - boxes[..., 1])


def _flip(boxes, x, y):
    xp = boxes.__array_namespace__()
    angle = normalize_angle(-boxes[..., 4])
    return xp.stack([x, y, boxes[..., 2], boxes[..., 3], angle], axis=-1)


def rescale(boxes, scale_x, scale_y):
    """Boxes in an image resized by the two factors: [..., 5] -> [..., 5].

    Unequal factors turn a rectangle into a parallelogram; the answer keeps its side `w` and its
    area. Equal factors are exact.
    """
    xp = boxes.__array_namespace__()
    x, y, w, h, angle = (boxes[..., i] for i in range(5))
    along = xp.stack([scale_x * xp.cos(angle), scale_y * xp.sin(angle)], axis=-1)
    stretch = _length(along)
    scaled = [x * scale_x, y * scale_y, w * stretch, h * scale_x * scale_y / stretch]
    return canonical(xp.stack([*scaled, _angle_of(along)], axis=-1))


def rotate(boxes, angle, center):
    """Turn boxes clockwise on screen by `angle` radians about `center` (x, y): [..., 5]."""
    xp = boxes.__array_namespace__()
    x, y = boxes[..., 0] - center[0], boxes[..., 1] - center[1]
    cos, sin = math.cos(angle), math.sin(angle)
    moved = [center[0] + x * cos - y * sin, center[1] + x * sin + y * cos]
    turned = normalize_angle(boxes[..., 4] + angle)
    return xp.stack([*moved, boxes[..., 2], boxes[..., 3], turned], axis=-1)
