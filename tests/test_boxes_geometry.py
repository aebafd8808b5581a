"""Conversions and transforms of boxes, against shapely, OpenCV and hand-computed cases."""

import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfm_jax.boxes import geometry

HALF_PI = math.pi / 2

numbers = st.floats(-2000, 2000, allow_nan=False)
sides = st.floats(1e-2, 1000)
angles = st.floats(-7, 7)
boxes = st.builds(lambda *v: np.array(v), numbers, numbers, sides, sides, angles)


def rectangle(box):
    """The same rectangle drawn by shapely: a square scaled, rotated and moved."""
    square = shapely.box(-box[2] / 2, -box[3] / 2, box[2] / 2, box[3] / 2)
    turned = shapely.affinity.rotate(square, box[4], origin=(0, 0), use_radians=True)
    return shapely.affinity.translate(turned, box[0], box[1])


def same(a, b, size):
    """Both regions agree but for a sliver of rounding."""
    return shapely.hausdorff_distance(a.exterior, b.exterior) <= 1e-7 * size


def test_angle_zero_lists_corners_clockwise_from_top_left():
    corners = geometry.to_corners(np.array([10.0, 20.0, 6.0, 4.0, 0.0]))
    np.testing.assert_allclose(corners, [[7, 18], [13, 18], [13, 22], [7, 22]])


def test_positive_angle_is_clockwise_on_screen():
    """Turned by +30 degrees with y down, the right end of a long box goes down."""
    corners = geometry.to_corners(np.array([0.0, 0.0, 100.0, 2.0, math.pi / 6]))
    assert corners[1, 0] > 40 and corners[1, 1] > 20


@given(boxes)
@settings(max_examples=200, deadline=None)
def test_canonical_keeps_the_rectangle(box):
    out = geometry.canonical(box)
    assert out[2] >= out[3] and -HALF_PI <= out[4] < HALF_PI
    assert same(rectangle(box), rectangle(out), 4000)


@given(boxes)
@settings(max_examples=200, deadline=None)
def test_round_trips_through_corners_and_hull(box):
    corners = geometry.to_corners(box)
    truth = rectangle(box)
    assert same(shapely.Polygon(corners), truth, 4000)
    assert same(rectangle(geometry.from_corners(corners)), truth, 4000)
    assert same(rectangle(geometry.from_corners(corners[::-1])), truth, 4000)
    np.testing.assert_allclose(geometry.to_hbb(box), truth.bounds, atol=1e-8)
    np.testing.assert_allclose(
        geometry.to_hbb(geometry.from_hbb(geometry.to_hbb(box))), truth.bounds, atol=1e-8
    )


@given(boxes, st.integers(0, 4000))
@settings(max_examples=100, deadline=None)
def test_flips_mirror_the_rectangle(box, size):
    mirrored = shapely.affinity.scale(rectangle(box), xfact=-1, origin=(size / 2, 0))
    assert same(rectangle(geometry.flip_horizontal(box, size)), mirrored, 8000)
    mirrored = shapely.affinity.scale(rectangle(box), yfact=-1, origin=(0, size / 2))
    assert same(rectangle(geometry.flip_vertical(box, size)), mirrored, 8000)


@given(boxes, st.floats(-7, 7), numbers, numbers)
@settings(max_examples=100, deadline=None)
def test_rotate_turns_the_rectangle(box, angle, x, y):
    turned = shapely.affinity.rotate(rectangle(box), angle, origin=(x, y), use_radians=True)
    assert same(rectangle(geometry.rotate(box, angle, (x, y))), turned, 8000)


@given(boxes, st.floats(0.1, 5), st.floats(0.1, 5))
@settings(max_examples=100, deadline=None)
def test_rescale_is_exact_for_equal_factors_and_keeps_area_for_others(box, sx, sy):
    scaled = shapely.affinity.scale(rectangle(box), sx, sx, origin=(0, 0))
    assert same(rectangle(geometry.rescale(box, sx, sx)), scaled, 20000)
    out = geometry.rescale(box, sx, sy)
    np.testing.assert_allclose(out[:2], box[:2] * [sx, sy])
    np.testing.assert_allclose(out[2] * out[3], box[2] * box[3] * sx * sy)


@given(st.lists(st.tuples(numbers, numbers), min_size=4, max_size=4))
@settings(max_examples=200, deadline=None)
def test_min_area_rectangle_equals_shapely(points):
    points = np.array(points)
    box = geometry.min_area_rectangle(points)
    truth = shapely.minimum_rotated_rectangle(shapely.MultiPoint(points))
    assert box[2] * box[3] == pytest.approx(truth.area, rel=1e-6, abs=1e-4)
    covered = rectangle(box).buffer(1e-6) if box[3] > 0 else rectangle(box + [0, 0, 1, 1, 0])
    assert all(covered.covers(shapely.Point(p)) for p in points)


def test_min_area_rectangle_agrees_with_opencv_on_labels():
    rng = np.random.default_rng(0)
    quads = geometry.to_corners(
        np.stack([*rng.uniform(50, 900, (2, 200)), *rng.uniform(5, 90, (2, 200)),
                  rng.uniform(-2, 2, 200)], axis=-1)
    ) + rng.normal(0, 2, (200, 4, 2))  # hand-drawn labels are never quite rectangles
    ours = geometry.min_area_rectangle(quads)
    for quad, box in zip(quads, ours, strict=True):
        _, (w, h), _ = cv2.minAreaRect(quad.astype(np.float32))
        assert box[2] * box[3] == pytest.approx(w * h, rel=1e-4)


@pytest.mark.parametrize("points", [np.full((4, 2), 7.0), np.linspace(0, 3, 4)[:, None] * [1, 2]])
def test_min_area_rectangle_of_degenerate_labels_is_flat_and_finite(points):
    box = geometry.min_area_rectangle(points)
    assert np.isfinite(box).all() and box[3] == pytest.approx(0, abs=1e-12)


def test_range_of_the_angle_holds_at_its_ends_in_float32():
    ends = np.array([-1, 1, -3, 3, 5], np.float32) * np.float32(HALF_PI)
    angles = np.concatenate([ends, np.nextafter(ends, np.float32(9)), [np.float32(-1e-8)]])
    for out in (geometry.normalize_angle(angles), geometry.normalize_angle(jnp.asarray(angles))):
        assert (out >= np.float32(-HALF_PI)).all() and (out < np.float32(HALF_PI)).all()


def test_square_keeps_its_axes():
    np.testing.assert_allclose(geometry.canonical(np.array([0, 0, 5, 5, 0.3])), [0, 0, 5, 5, 0.3])


def _area(box):
    return box[..., 2] * box[..., 3]


def test_numpy_and_jax_agree_under_jit_and_vmap():
    rng = np.random.default_rng(1)
    batch = rng.uniform(1, 50, (3, 7, 5)).astype(np.float32)
    skew = np.array([[1, 1], [1, 1.3], [1.2, 1], [1, 1]], np.float32)  # no longer rectangles
    for fn in (
        geometry.canonical, geometry.to_corners, geometry.to_hbb, geometry.is_valid,
        lambda b: geometry.from_corners(geometry.to_corners(b)),
        lambda b: _area(geometry.min_area_rectangle(geometry.to_corners(b) * skew)),
        lambda b: geometry.rescale(b, 0.5, 0.7), lambda b: geometry.rotate(b, 0.4, (3, 4)),
    ):
        got = jax.jit(jax.vmap(fn))(jnp.asarray(batch))
        np.testing.assert_allclose(got, fn(batch), rtol=2e-4, atol=2e-4)


def test_what_counts_as_a_box():
    good = [5, 5, 2, 1, 0.1]
    bad = [[np.nan, 5, 2, 1, 0], [5, np.inf, 2, 1, 0], [5, 5, 2, 1, np.nan], [5, 5, 0, 1, 0],
           [5, 5, 2, -1, 0], [5, 1e30, 2, 1, 0], [0] * 5]
    np.testing.assert_array_equal(geometry.is_valid(np.array([good, *bad])), [True] + [False] * 7)
    assert geometry.is_valid(jnp.array([[0.0, 0, 1, 1], [1, 1, 1, 1]])).tolist() == [True, False]
    assert geometry.is_valid(np.zeros((0, 5))).shape == (0,)


def test_gradients_are_finite_where_a_box_collapses():
    collapsed = jnp.zeros((2, 4, 2))
    for fn in (geometry.from_corners, geometry.min_area_rectangle):
        grad = jax.grad(lambda c, fn=fn: fn(c).sum())(collapsed)
        assert np.isfinite(grad).all()
