"""Polygon IoU against shapely and by hand."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.boxes.polygons import polygon_iou


def shapely_iou(p, q):
    a, b = shapely.polygons(p), shapely.polygons(q)
    common = shapely.area(shapely.intersection(a, b))
    return common / (shapely.area(a) + shapely.area(b) - common)


def simple_quads(n, rng, spread):
    """Corners in order of angle about a centre: simple, mostly convex, half of them clockwise."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, (n, 4)), axis=1)
    radius = rng.uniform(2, 30, (n, 4))
    quads = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    quads[::2] = quads[::2, ::-1]
    gap = np.diff(np.concatenate([angle, angle[:, :1] + 2 * np.pi], axis=1), axis=1).max(axis=1)
    return quads + rng.uniform(-spread, spread, (n, 1, 2)), gap < np.pi


def test_equals_shapely_on_random_quads():
    rng = np.random.default_rng(0)
    (p, simple_p), (q, simple_q) = (simple_quads(20_000, rng, 6) for _ in range(2))
    keep = simple_p & simple_q  # the centre is inside: no corner order can cross
    assert keep.sum() > 3000
    got = polygon_iou(p, q)[keep]
    assert got.max() > 0.7
    np.testing.assert_allclose(got, shapely_iou(p[keep], q[keep]), atol=1e-9)


def test_equals_shapely_far_away_and_on_shared_edges():
    rng = np.random.default_rng(1)
    boxes = np.hstack([rng.integers(0, 8, (2000, 2)), rng.integers(1, 6, (2000, 2)),
                       rng.integers(-1, 2, (2000, 1)) * np.pi / 2])  # fmt: skip
    p, q = to_corners(boxes)[:1000], to_corners(boxes)[1000:]
    np.testing.assert_allclose(polygon_iou(p, q), shapely_iou(p, q), atol=1e-12)
    np.testing.assert_allclose(polygon_iou(p + 1e5, q + 1e5), shapely_iou(p, q), atol=1e-9)


coordinates = st.integers(-50, 50).map(float)


@given(arrays(float, (4, 2), elements=coordinates), arrays(float, (4, 2), elements=coordinates))
@settings(max_examples=200, deadline=None)
def test_any_corners_give_a_symmetric_share(p, q):
    value = polygon_iou(p[None], q[None])[0]
    assert 0 <= value <= 1
    assert polygon_iou(q[None], p[None])[0] == pytest.approx(value, abs=1e-9)
    assert polygon_iou(p[None, ::-1], q[None])[0] == pytest.approx(value, abs=1e-9)
    assert polygon_iou(np.roll(p, 1, axis=0)[None], q[None])[0] == pytest.approx(value, abs=1e-9)
    if shapely.Polygon(p).is_valid and shapely.Polygon(q).is_valid:
        assert value == pytest.approx(float(shapely_iou(p[None], q[None])[0]), abs=1e-9)


def test_by_hand_and_degenerate():
    unit = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    nan, inf = np.full((4, 2), np.nan), np.full((4, 2), np.inf)
    cases = [(unit, 1), (unit + [1, 0], 1 / 3), (unit + [2, 0], 0), (unit * 0, 0),
             (unit * [1, 0], 0), (nan, 0), (inf, 0)]  # fmt: skip
    quads = np.stack([quad for quad, _ in cases])
    expected = [value for _, value in cases]
    np.testing.assert_allclose(polygon_iou(np.stack([unit] * len(cases)), quads), expected)
    assert polygon_iou(np.zeros((0, 4, 2)), np.zeros((0, 4, 2))).shape == (0,)
