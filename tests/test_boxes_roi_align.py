"""RoIAlignRotated against a slow numpy version and hand-computed cases."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.boxes.roi_align import extend, pyramid_level
from rsfm_jax.boxes.roi_align import roi_align as eager_roi_align

STRIDES = (4, 8)
roi_align = jax.jit(eager_roi_align, static_argnames="strides")


def slow_roi_align(pyramid, roi, strides):
    """One region [5] of one image: loops over cells, samples and corners, as the operator reads."""
    scale = math.sqrt(roi[2] * roi[3])
    level = min(max(math.floor(math.log2(scale / 56 + 1e-6)), 0), len(pyramid) - 1)
    features, stride = pyramid[level], strides[level]
    height, width = features.shape[:2]
    x, y = roi[0] / stride - 0.5, roi[1] / stride - 0.5
    w, h, angle = roi[2] / stride, roi[3] / stride, roi[4]
    out = np.zeros((7, 7, features.shape[2]))
    for row, column, i, j in np.ndindex(7, 7, 2, 2):
        v = -h / 2 + h / 7 * (row + (i + 0.5) / 2)
        u = -w / 2 + w / 7 * (column + (j + 0.5) / 2)
        sx = x + u * math.cos(angle) - v * math.sin(angle)
        sy = y + u * math.sin(angle) + v * math.cos(angle)
        if not (-1 <= sx <= width and -1 <= sy <= height):
            continue
        sx, sy = min(max(sx, 0), width - 1), min(max(sy, 0), height - 1)
        x0, y0 = int(sx), int(sy)
        for cx, cy in ((x0, y0), (x0 + 1, y0), (x0, y0 + 1), (x0 + 1, y0 + 1)):
            share = max(0, 1 - abs(sx - cx)) * max(0, 1 - abs(sy - cy))
            if share > 0:
                out[row, column] += share * features[cy, cx] / 4
    return out


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(2, 24, 32, 3)), rng.normal(size=(2, 12, 16, 3))]
    rois = np.stack([*rng.uniform(-10, 130, (2, 2, 20)), *rng.uniform(4, 260, (2, 2, 20)),
                     rng.uniform(-1.6, 1.6, (2, 20))], axis=-1)  # fmt: skip
    rois[0, 0] = [16, 16, 8, 4, 0]  # small: the finest level
    return [p.astype(np.float32) for p in pyramid], rois.astype(np.float32)


def test_forward_equals_the_slow_version(case):
    pyramid, rois = case
    got = roi_align(pyramid, rois, STRIDES)
    assert got.shape == (2, 20, 7, 7, 3)
    levels = np.asarray(pyramid_level(jnp.asarray(rois), 2))
    assert 0 < levels.mean() < 1  # both levels are read
    for b, r in np.ndindex(2, 20):
        expected = slow_roi_align([p[b] for p in pyramid], rois[b, r], STRIDES)
        np.testing.assert_allclose(got[b, r], expected, atol=2e-5)


def test_gradient_is_the_transpose_of_the_slow_version(case):
    """Pooling is linear: <grad, direction> must equal <cotangent, pooled direction>."""
    pyramid, rois = case
    rng = np.random.default_rng(1)
    cotangent = rng.normal(size=(2, 20, 7, 7, 3)).astype(np.float32)
    grads, roi_grad = jax.grad(
        lambda p, r: (roi_align(p, r, STRIDES) * cotangent).sum(), argnums=(0, 1)
    )(pyramid, rois)
    np.testing.assert_array_equal(roi_grad, 0)
    for _ in range(3):
        direction = [rng.normal(size=p.shape) for p in pyramid]
        pooled = [[slow_roi_align([d[b] for d in direction], rois[b, r], STRIDES)
                   for r in range(20)] for b in range(2)]  # fmt: skip
        expected = (np.array(pooled) * cotangent).sum()
        got = sum((np.asarray(g) * d).sum() for g, d in zip(grads, direction, strict=True))
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-2)


def ramp(height, width):
    """A map whose channels are the pixel coordinates of each cell's centre at stride 4."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return ((np.stack([x, y], -1) + 0.5) * 4)[None].astype(np.float32)


def test_ramp_returns_the_centres_of_the_cells():
    """By hand: bilinear sampling of a linear map is exact, so each cell gives its own centre."""
    roi = jnp.array([[[100.0, 60, 70, 28, 0]]])
    out = roi_align([ramp(40, 60)], roi, (4,))[0, 0]
    np.testing.assert_allclose(out[3, 3], [100, 60], atol=1e-4)
    np.testing.assert_allclose(out[0, 0], [100 - 30, 60 - 12], atol=1e-4)
    np.testing.assert_allclose(out[6, 0], [100 - 30, 60 + 12], atol=1e-4)


def test_turning_is_clockwise():
    """A region turned by 90 degrees reads its first row, left to right, down the right side."""
    roi = jnp.array([[[100.0, 80, 70, 28, math.pi / 2]]])
    out = roi_align([ramp(40, 60)], roi, (4,))[0, 0]
    np.testing.assert_allclose(out[0, 0], [100 + 12, 80 - 30], atol=1e-4)
    np.testing.assert_allclose(out[0, 6], [100 + 12, 80 + 30], atol=1e-4)


def test_outside_is_zero_and_the_border_is_repeated():
    ones = jnp.ones((1, 10, 10, 1))
    rois = jnp.array([[[-200.0, -200, 20, 20, 0], [2, 20, 0.01, 0.01, 0], [0, 20, 4, 4, 0]]])
    outside, inside, border = roi_align([ones], rois, (4,))[0, ..., 0]
    np.testing.assert_array_equal(outside, 0)
    np.testing.assert_allclose(inside, 1, rtol=1e-6)
    np.testing.assert_allclose(border, 1, rtol=1e-6)


def test_levels_of_the_reference():
    sides = jnp.array([10.0, 111, 112, 223, 224, 447, 448, 5000])
    rois = jnp.stack([sides * 0, sides * 0, sides, sides, sides * 0], axis=-1)
    assert pyramid_level(rois, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert extend(rois[:1], (1.4, 1.2)).tolist()[0][2:4] == pytest.approx([14, 12])


def test_empty_padding_and_nan_regions_give_zeros():
    features = jnp.ones((1, 8, 8, 2))
    bad = jnp.array([[[0.0] * 5, [jnp.nan] * 5, [8, 8, jnp.inf, 4, 0], [8, 8, 4, -4, 0]]])
    value, grads = jax.value_and_grad(lambda f: roi_align([f], bad, (4,)).sum())(features)
    assert value == 0
    np.testing.assert_array_equal(grads, 0)
    assert roi_align([features], jnp.zeros((1, 0, 5)), (4,)).shape == (1, 0, 7, 7, 2)


def test_bfloat16_features_are_summed_in_float32(case):
    pyramid, rois = case
    half = [jnp.asarray(p, jnp.bfloat16) for p in pyramid]
    got = roi_align(half, rois, STRIDES)
    assert got.dtype == jnp.bfloat16
    expected = roi_align([p.astype(jnp.float32) for p in half], rois, STRIDES)
    np.testing.assert_array_equal(got, expected.astype(jnp.bfloat16))
