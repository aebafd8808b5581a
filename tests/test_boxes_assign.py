"""Anchors, assignment and sampling against a plain numpy transcription of their rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.boxes import anchors as anchor_grid
from rsfm_jax.boxes.assign import ROI_RULE, RPN_RULE, assign
from rsfm_jax.boxes.geometry import to_hbb
from rsfm_jax.boxes.iou import hbb_iou, pairwise, rotated_iou
from rsfm_jax.boxes.sample import choose, pack, sample

assign = jax.jit(assign, static_argnames="rule")


def slow_assign(overlaps, usable, valid_truth, rule):
    """mmdetection's MaxIoUAssigner, truth by truth."""
    label, truth = np.full(len(overlaps), -1), np.zeros(len(overlaps), int)
    overlaps = np.where(usable[:, None] & valid_truth, overlaps, 0)
    for i, row in enumerate(overlaps):
        best = row.max(initial=0)
        truth[i] = row.argmax() if row.size else 0
        label[i] = 1 if best >= rule.positive else 0 if best < rule.negative else -1
    for g in range(overlaps.shape[1]):
        reach = overlaps[:, g].max()
        if rule.low_quality is not None and reach >= rule.low_quality:
            label[overlaps[:, g] == reach], truth[overlaps[:, g] == reach] = 1, g
    return np.where(usable, label, -1), truth


@pytest.mark.parametrize("truths", [1, 7, 70])
def test_rpn_assignment_equals_the_slow_one(truths):
    rng = np.random.default_rng(truths)
    image = (96, 128)
    boxes = np.asarray(anchor_grid.grid_anchors(image))
    # Integer truths: many anchors share the best overlap exactly.
    corner = rng.integers(0, 90, (truths, 2))
    gts = np.concatenate([corner, corner + rng.integers(6, 60, (truths, 2))], 1).astype("f")
    gts[truths // 2 :: 3] = 0  # padding in between
    usable = np.asarray(anchor_grid.inside_image(boxes, image))
    got = assign(boxes, gts, RPN_RULE, usable)
    overlaps = np.asarray(pairwise(hbb_iou, jnp.asarray(boxes), jnp.asarray(gts)))
    label, truth = slow_assign(overlaps, usable, gts[:, 2] > 0, RPN_RULE)
    np.testing.assert_array_equal(got.label, label)
    np.testing.assert_array_equal(got.truth[label == 1], truth[label == 1])
    assert truths == 1 or (label == 1).sum() > 3


def test_roi_assignment_equals_the_slow_one():
    rng = np.random.default_rng(0)
    gts = np.stack([*rng.uniform(0, 200, (2, 40)), *rng.uniform(10, 60, (2, 40)),
                    rng.uniform(-1.5, 1.5, 40)], 1).astype("f")  # fmt: skip
    rois = (np.repeat(gts, 12, 0) + rng.normal(0, 1, (480, 5)) * [6, 6, 6, 6, 0.2]).astype("f")
    got = assign(rois, gts, ROI_RULE)
    overlaps = np.asarray(pairwise(rotated_iou, jnp.asarray(rois), jnp.asarray(gts)))
    usable = (rois[:, 2:4] > 0).all(1)
    label, truth = slow_assign(overlaps, usable, np.ones(40, bool), ROI_RULE)
    np.testing.assert_array_equal(got.label, label)
    np.testing.assert_array_equal(got.truth[label == 1], truth[label == 1])
    np.testing.assert_allclose(got.overlap[usable], overlaps.max(1)[usable], atol=1e-6)


@pytest.mark.parametrize("gts", [jnp.zeros((0, 5)), jnp.zeros((6, 5)), jnp.full((6, 5), jnp.nan)])
def test_without_truths_all_usable_candidates_are_negative(gts):
    rois = jnp.array([[5.0, 5, 4, 4, 0], [0, 0, 0, 0, 0], [jnp.nan, 5, 4, 4, 0]])
    assert assign(rois, gts, ROI_RULE).label.tolist() == [0, -1, -1]
    assert assign(to_hbb(rois), to_hbb(gts), RPN_RULE).label.tolist() == [0, -1, -1]


def test_without_candidates_nothing_is_assigned():
    assert assign(jnp.zeros((0, 4)), jnp.ones((3, 4)), RPN_RULE).label.shape == (0,)


def test_anchor_counts_and_first_anchors_of_the_reference():
    """Counts measured on mmrotate's generator; the 32 px square starts centred on the corner."""
    boxes = anchor_grid.grid_anchors((1024, 1024))
    assert len(boxes) == 261_888 == sum(anchor_grid.level_sizes((1024, 1024)))
    assert int(anchor_grid.inside_image(boxes, (1024, 1024)).sum()) == 238_950
    assert sum(anchor_grid.level_sizes((800, 800))) == 159_882
    wide, square, tall = boxes[:3]
    np.testing.assert_allclose(square, [-16, -16, 16, 16])
    np.testing.assert_allclose(wide, [-22.627417, -11.313708, 22.627417, 11.313708])
    np.testing.assert_allclose(tall, wide[jnp.array([1, 0, 3, 2])])
    np.testing.assert_allclose(boxes[4], [-12, -16, 20, 16])  # one stride to the right


@pytest.mark.parametrize("count", [0, 1, 37, 500, 2000])
def test_choose_is_exact_and_fair(count):
    eligible = np.random.default_rng(0).random(1000) < 0.5
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: choose(k, eligible, count)))(keys))
    assert (drawn.sum(axis=1) == min(count, eligible.sum())).all()
    assert not drawn[:, ~eligible].any()
    share = min(count / eligible.sum(), 1)
    spread = np.sqrt(share * (1 - share) / len(keys))
    assert (np.abs(drawn[:, eligible].mean(axis=0) - share) <= 5 * spread + 1e-9).all()


def test_choose_breaks_equal_draws(monkeypatch):
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: jnp.full(shape, 7, dtype))
    eligible = jnp.array([False, True, True, True])
    assert choose(None, eligible, 2).tolist() == [False, True, True, False]


@pytest.mark.parametrize("positives, expected", [(0, (0, 20)), (3, (3, 17)), (90, (5, 15))])
def test_negatives_fill_what_positives_leave(positives, expected):
    label = jnp.where(jnp.arange(200) < positives, 1, jnp.where(jnp.arange(200) < 180, 0, -1))
    positive, negative = sample(jax.random.key(1), label, 20, 5)
    assert (int(positive.sum()), int(negative.sum())) == expected
    assert not (positive & (label != 1)).any() and not (negative & (label != 0)).any()
    index, used = pack(positive, negative, 24)
    assert used.tolist() == [True] * 20 + [False] * 4
    np.testing.assert_array_equal(index[: expected[0]], np.flatnonzero(positive))
    np.testing.assert_array_equal(index[expected[0] : 20], np.flatnonzero(negative))
    np.testing.assert_array_equal(index[20:], 0)


def test_sampling_nothing():
    positive, negative = sample(jax.random.key(0), jnp.full(5, -1), 4, 2)
    index, used = pack(positive, negative, 4)
    assert not used.any() and index.tolist() == [0] * 4
    assert choose(jax.random.key(0), jnp.zeros(0, bool), 3).shape == (0,)
