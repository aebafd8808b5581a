"""Rotated IoU against shapely, its gradients against finite differences, and its edge rules."""

import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfm_jax.boxes import iou as eager
from rsfm_jax.boxes.compensated import cos_sin
from rsfm_jax.boxes.geometry import rescale, rotate
from rsfm_jax.boxes.iou import pairwise

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "boxes.py"))
accuracy_pairs, shapely_iou = BENCHMARK["accuracy_pairs"], BENCHMARK["shapely_iou"]
rotated_iou, rotated_iof, hbb_iou = (
    jax.jit(f) for f in (eager.rotated_iou, eager.rotated_iof, eager.hbb_iou)
)
KINDS = BENCHMARK["ACCURACY_KINDS"]
BAD_BOXES = np.array(
    [[0, 0, 0, 0, 0], [5, 5, 0, 3, 0], [5, 5, 3, -3, 0], [np.nan, 5, 4, 4, 0], [5, 5, np.inf, 4, 0],
     [5, 5, 4, 4, np.nan], [-np.inf, 5, 4, 4, 0], [5, 5, 1e20, 1e20, 0]], np.float32
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_float32_error_is_below_one_in_a_million(kind):
    """10,000 pairs a kind; `python benchmarks/boxes.py accuracy` runs the million."""
    a, b = accuracy_pairs(kind, 10_000, np.random.default_rng(0))
    error = np.abs(np.asarray(rotated_iou(a, b), np.float64) - shapely_iou(a, b))
    assert error.max() <= 1e-6


# Pairs on which published kernels fail, with their exact values (see docs/boxes.md).
@pytest.mark.parametrize(
    "a, b, expected",
    [
        ([10, 10, 4, 2, 0], [10, 10, 4, 2, 0], 1),
        ([10, 10, 4, 2, 0.7], [10, 10, 4, 2, 0.7 - math.pi], 1),
        ([10, 10, 4, 2, 0], [10, 10, 2, 4, -math.pi / 2], 1),
        ([0, 0, 10, 10, 0], [5, 0, 10, 10, 0], 1 / 3),
        ([0, 0, 10, 10, 0], [10, 0, 10, 10, 0], 0),  # touching
        ([0, 0, 10, 10, 0], [0, 0, 10, 5, 0], 0.5),  # nested
        ([0, 0, 2, 2, 0], [0, 0, 2, 2, math.pi / 4], 1 / math.sqrt(2)),
        ([0, 0, 100, 1, 0], [0, 0, 100, 1, math.pi / 2], 1 / 199),
        ([100, 100, 7.9e-7, 30, 0.1], [100, 100, 20, 30, 0.1], 7.9e-7 / 20),
        ([903.34, 1034.4, 1.81e7, 1e7, -0.312], [848.87, 699.89, 468.54, 307.43, -1.4008],
         468.54 * 307.43 / 1.81e14),
    ],
)  # fmt: skip
def test_hand_computed_cases(a, b, expected):
    assert float(rotated_iou(jnp.array(a), jnp.array(b))) == pytest.approx(expected, abs=2e-7)


def test_exact_where_float32_is_exact():
    """Axis-aligned boxes on a grid give ratios without any rounding but the last."""
    a, b = jnp.array([0.0, 0, 8, 8, 0]), jnp.array([0.0, 0, 8, 2, 0])
    assert float(rotated_iou(a, b)) == 0.25 and float(rotated_iof(b, a)) == 1


def test_intersection_over_foreground():
    a, b = jnp.array([0.0, 0, 4, 4, 0]), jnp.array([2.0, 0, 4, 100, 0])
    assert float(rotated_iof(a, b)) == pytest.approx(0.5)
    assert float(rotated_iof(b, a)) == pytest.approx(8 / 400)


coordinate = st.floats(-300, 300, width=32)
side = st.floats(1, 200, width=32)
box = st.builds(lambda *v: np.array(v, np.float32), coordinate, coordinate, side, side,
                st.floats(-3, 3, width=32))  # fmt: skip


@given(box, box, st.floats(-3, 3), st.floats(0.25, 4))
@settings(max_examples=60, deadline=None)
def test_symmetric_and_unmoved_by_similarities(a, b, angle, scale):
    value = float(rotated_iou(a, b))
    assert 0 <= value <= 1
    assert float(rotated_iou(b, a)) == pytest.approx(value, abs=1e-6)
    a64, b64 = (rescale(rotate(x.astype(float), angle, (7, 9)), scale, scale) for x in (a, b))
    assert shapely_iou(a64[None], b64[None])[0] == pytest.approx(value, abs=1e-6)


def test_horizontal_iou_equals_shapely():
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 50, (2, 500, 2)), rng.uniform(1, 40, (2, 500, 2))
    a, b = np.concatenate([corner, corner + size], axis=-1)
    pa, pb = shapely.box(*a.T), shapely.box(*b.T)
    truth = shapely.area(shapely.intersection(pa, pb)) / shapely.area(shapely.union(pa, pb))
    np.testing.assert_allclose(hbb_iou(jnp.asarray(a), jnp.asarray(b)), truth, atol=1e-6)


def test_pairwise_matrix_under_jit_and_vmap():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 20, (2, 3, 5)), rng.uniform(1, 20, (2, 4, 5))
    matrix = jax.jit(jax.vmap(lambda x, y: pairwise(rotated_iou, x, y)))(a, b)
    assert matrix.shape == (2, 3, 4)
    for i, j, k in np.ndindex(2, 3, 4):
        assert float(matrix[i, j, k]) == pytest.approx(
            float(shapely_iou(a[i, j][None], b[i, k][None])[0]), abs=1e-6
        )
    empty = pairwise(rotated_iou, jnp.zeros((0, 5)), jnp.zeros((4, 5)))
    assert empty.shape == (0, 4)


@pytest.mark.parametrize("overlap", [rotated_iou, rotated_iof, hbb_iou])
def test_invalid_boxes_overlap_nothing_and_give_zero_gradients(overlap):
    good = np.array([5, 5, 4, 4, 0], np.float32)
    bad = BAD_BOXES
    if overlap is hbb_iou:
        good = np.float32([3, 3, 7, 7])
        bad = np.float32([[0, 0, 0, 0], [3, 3, 3, 9], [7, 7, 3, 3], [np.nan, 3, 7, 7],
                          [3, 3, np.inf, 7], [-1e20, -1e20, 1e20, 1e20]])  # fmt: skip
    for a, b in ((good, bad), (bad, good), (bad, bad)):
        a, b = np.broadcast_arrays(a, b)
        np.testing.assert_array_equal(overlap(a, b), 0)
        for grad in jax.jit(jax.grad(lambda a, b: overlap(a, b).sum(), argnums=(0, 1)))(a, b):
            np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("overlap, columns", [(rotated_iou, 4), (rotated_iof, 3), (hbb_iou, 5)])
def test_boxes_of_the_wrong_kind_are_refused(overlap, columns):
    with pytest.raises(ValueError, match="expected boxes"):
        overlap(jnp.ones((2, columns)), jnp.ones((2, columns)))


@pytest.mark.parametrize("overlap", [rotated_iou, rotated_iof])
def test_gradients_equal_finite_differences(overlap):
    with jax.enable_x64(True):
        a, b = (x.astype(np.float64) for x in
                accuracy_pairs("random", 300, np.random.default_rng(3)))  # fmt: skip
        grads = jax.jit(jax.vmap(jax.grad(overlap, argnums=(0, 1))))(a, b)
        step = 1e-6
        for which, grad in enumerate(grads):
            for i in range(5):
                shift = step * np.eye(5)[i]
                ends = [overlap(*((a + s, b) if which == 0 else (a, b + s)))
                        for s in (shift, -shift)]  # fmt: skip
                np.testing.assert_allclose(grad[:, i], (ends[0] - ends[1]) / (2 * step), atol=1e-6)


gradients = jax.jit(jax.vmap(jax.grad(rotated_iou, argnums=(0, 1))))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_and_bounded_everywhere(kind):
    """An IoU cannot change faster than the shorter side is crossed, whatever the rounding."""
    a, b = accuracy_pairs(kind, 5_000, np.random.default_rng(1))
    grads = gradients(a, b)
    for box, grad in zip((a, b), grads, strict=True):
        short, long = box[:, 2:4].min(axis=1), box[:, 2:4].max(axis=1)
        unit = np.stack([short, short, box[:, 2], box[:, 3], short / long * short / long], axis=1)
        assert np.isfinite(grad).all()
        assert (np.abs(grad * unit) < 20).all()


def test_loss_moves_a_box_onto_its_target():
    target = jnp.array([52.0, 48, 40, 12, 0.5])
    box = jnp.array([50.0, 50, 30, 20, 0.2])
    unit = jnp.array([100.0, 100, 100, 100, 0.1])
    loss = jax.jit(jax.value_and_grad(lambda box: 1 - rotated_iou(box, target)))
    assert loss(box)[0] > 0.5
    for step in range(400):
        box = box - 0.4 * 0.99**step * unit * loss(box)[1]
    assert loss(box)[0] < 0.02


def test_rotations_hold_ten_digits_in_float32():
    angle = np.linspace(-7, 7, 20_001).astype(np.float32)
    truth = np.cos(angle.astype(np.float64)), np.sin(angle.astype(np.float64))
    for pair, expected in zip(jax.jit(cos_sin)(angle), truth, strict=True):
        high, low = (np.asarray(x, np.float64) for x in pair)
        assert np.abs(high + low - expected).max() < 5e-10
        assert (np.float32(high * 2**11) % np.float32(2.0**-24) == 0).all()
