"""NMS against a plain greedy loop, for every threshold and tie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.boxes import nms
from rsfm_jax.boxes.iou import hbb_iou, pairwise, rotated_iou

rotated_nms = jax.jit(nms.rotated_nms)
multiclass_nms = jax.jit(nms.multiclass_nms)


def greedy(overlaps, scores, threshold, candidate=None, classes=None):
    """Plain greedy NMS: falling score, equal scores by index, suppress what overlaps by more."""
    candidate = np.ones(len(scores), bool) if candidate is None else candidate
    classes = np.zeros(len(scores)) if classes is None else classes
    keep = []
    for i in sorted(np.flatnonzero(candidate), key=lambda i: (-scores[i], i)):
        if all(classes[i] != classes[j] or overlaps[j, i] <= threshold for j in keep):
            keep.append(i)
    return np.isin(np.arange(len(scores)), keep)


def clustered(n, rng, clusters=12):
    """Boxes crowded around a few objects, with many equal scores."""
    centre = rng.uniform(0, 300, (clusters, 2))[rng.integers(clusters, size=n)]
    boxes = np.hstack([centre + rng.normal(0, 8, (n, 2)), rng.uniform(5, 60, (n, 2)),
                       rng.uniform(-1.5, 1.5, (n, 1))]).astype(np.float32)  # fmt: skip
    return boxes, (rng.integers(0, 40, n) / 40).astype(np.float32)


@pytest.fixture(scope="module")
def crowd():
    boxes, scores = clustered(700, np.random.default_rng(0))  # three blocks, the last not full
    return boxes, scores, np.asarray(jax.jit(lambda b: pairwise(rotated_iou, b, b))(boxes))


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0])
def test_equals_greedy(crowd, threshold):
    boxes, scores, overlaps = crowd
    keep = rotated_nms(boxes, scores, threshold)
    np.testing.assert_array_equal(keep, greedy(overlaps, scores, threshold))


def test_equals_greedy_with_classes(crowd):
    boxes, scores, overlaps = crowd
    classes = np.random.default_rng(1).integers(0, 5, len(boxes))
    keep = rotated_nms(boxes, scores, 0.2, classes)
    np.testing.assert_array_equal(keep, greedy(overlaps, scores, 0.2, classes=classes))


@pytest.mark.parametrize("seed", range(8))
def test_ties_at_the_threshold_keep_both(seed):
    """Boxes on a grid have IoUs 1/4, 1/2 and 1, exact in float32: equal keeps both."""
    rng = np.random.default_rng(seed)
    width, height = 8.0 * 2.0 ** rng.integers(0, 2, (2, 300))
    x, y = 100 * rng.integers(0, 6, (2, 300))
    boxes = np.stack([x, y, width, height, np.zeros(300)], axis=1).astype(np.float32)
    scores = rng.integers(0, 3, 300).astype(np.float32)
    overlaps = np.asarray(pairwise(rotated_iou, jnp.asarray(boxes), jnp.asarray(boxes)))
    assert set(np.unique(overlaps)) <= {0, 0.25, np.float32(1 / 3), 0.5, 1}
    for threshold in (0.25, 0.5, 1.0):
        keep = rotated_nms(boxes, scores, threshold)
        np.testing.assert_array_equal(keep, greedy(overlaps, scores, threshold))


def test_long_chain_of_suppressions():
    """Each box overlaps only its neighbours: every second one stays, however long the chain."""
    n = 1000
    boxes = jnp.stack([6.0 * jnp.arange(n), *jnp.full((3, n), 10.0), jnp.zeros(n)], axis=1)
    boxes = boxes.at[:, 4].set(0)
    keep = rotated_nms(boxes, -jnp.arange(n, dtype=jnp.float32), 0.2)
    np.testing.assert_array_equal(keep, np.arange(n) % 2 == 0)


def test_horizontal_nms_of_levels_under_vmap():
    rng = np.random.default_rng(2)
    corner = rng.uniform(0, 60, (5, 300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (5, 300, 2))], -1).astype("f")
    scores = rng.normal(size=(5, 300)).astype("f")
    keep = jax.jit(jax.vmap(lambda b, s: nms.hbb_nms(b, s, 0.5)))(boxes, scores)
    for level in range(5):
        overlaps = np.asarray(pairwise(hbb_iou, boxes[level], boxes[level]))
        np.testing.assert_array_equal(keep[level], greedy(overlaps, scores[level], 0.5))


def test_multiclass_equals_greedy_a_class(crowd):
    boxes, _, overlaps = crowd
    scores = (np.random.default_rng(3).integers(0, 30, (len(boxes), 6)) / 30).astype(np.float32)
    keep = multiclass_nms(boxes, scores, 0.1, 0.3)
    for c in range(6):
        expected = greedy(overlaps, scores[:, c], 0.1, candidate=scores[:, c] > 0.3)
        np.testing.assert_array_equal(keep[:, c], expected)


def test_invalid_boxes_are_never_kept_and_suppress_nothing(crowd):
    boxes, scores, overlaps = (np.copy(x[:300]) for x in crowd)
    bad = np.random.default_rng(4).integers(0, 6, 300)
    values = [(0, np.nan), (3, np.inf), (2, 0), (4, -np.inf)]
    for code, (column, value) in enumerate(values):
        boxes[bad == code, column] = value
    scores[bad == 4] = np.nan
    keep = rotated_nms(boxes, scores, 0.1)
    expected = greedy(overlaps[:, :300], scores, 0.1, candidate=bad == 5)
    np.testing.assert_array_equal(keep, expected)
    keep = multiclass_nms(boxes, scores[:, None], 0.1, -1.0)
    np.testing.assert_array_equal(keep[:, 0], expected)


@pytest.mark.parametrize("n", [0, 1, 256])
def test_empty_and_all_padding(n):
    boxes, scores = jnp.zeros((n, 5)), jnp.ones(n)
    assert rotated_nms(boxes, scores, 0.5).tolist() == [False] * n
    assert multiclass_nms(boxes, scores[:, None], 0.5, 0.05).tolist() == [[False]] * n
    index, used = nms.top_kept(jnp.zeros(n, bool), scores, 3)
    assert index.tolist() == [0, 0, 0] and not used.any()


def test_top_kept_orders_by_score_then_index():
    keep = jnp.array([True, False, True, True, True])
    index, used = nms.top_kept(keep, jnp.array([0.2, 0.9, 0.5, 0.5, 0.1]), 3)
    assert index.tolist() == [2, 3, 0] and used.all()
    index, used = nms.top_kept(keep, jnp.array([0.2, 0.9, 0.5, 0.5, 0.1]), 6)
    assert index.tolist() == [2, 3, 0, 4, 0, 0] and used.tolist() == [True] * 4 + [False] * 2
