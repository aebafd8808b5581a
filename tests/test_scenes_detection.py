"""Detections of whole scenes: no seams, no data, memory."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.boxes.nms import rotated_nms
from rsfm_jax.boxes.polygons import polygon_iou
from rsfm_jax.evaluation.detection_match import overlap_matrix
from tests import painted

pytest.importorskip("rasterio")
from rsfm_jax.evaluation.detection_merging import Found, Merger, join  # noqa: E402
from rsfm_jax.scenes.detection import detect  # noqa: E402
from rsfm_jax.scenes.raster import Reading, Scene  # noqa: E402


def run(path, detector, reading=painted.PLAIN, min_score=0.0):
    with Scene(path, path.name, reading) as scene:
        return join([found for _, found in detect([scene], detector, min_score, lambda: None)])


def same(a, b):
    """Whether two sets of boxes are the same, one to one."""
    if len(a) != len(b):
        return False
    overlaps = overlap_matrix(to_corners(a), to_corners(b))
    return (overlaps.max(1) > 0.999).all() and (overlaps.max(0) > 0.999).all()


@pytest.mark.parametrize(
    ("height", "width", "size", "overlap"),
    [(500, 700, 128, 64), (501, 333, 160, 64), (128, 900, 128, 64), (97, 61, 128, 64)],
)
def test_tiles_leave_no_seams(tmp_path, height, width, size, overlap):
    """Objects up to 7/8 of the overlap are found as in one tile that holds the scene."""
    rng = np.random.default_rng(height)
    boxes = painted.random_boxes(rng, height, width, 40, overlap * 7 / 8 / np.sqrt(2))
    path = painted.write(tmp_path / "scene.tif", painted.paint(height, width, boxes))
    whole = run(path, painted.detector(max(height, width), 0))
    tiled = run(path, painted.detector(size, overlap))
    overlaps = overlap_matrix(to_corners(boxes), to_corners(whole.boxes))
    assert len(whole.boxes) == len(boxes) and (overlaps.max(1) > 0.75).all()
    assert same(whole.boxes, tiled.boxes)
    order = [np.lexsort((found.boxes[:, 1], found.boxes[:, 0])) for found in (whole, tiled)]
    np.testing.assert_array_equal(whole.classes[order[0]], tiled.classes[order[1]])


def test_an_object_longer_than_the_overlap_is_kept_in_part(tmp_path):
    path = painted.write(tmp_path / "s.tif", painted.paint(200, 600, [[300, 100, 500, 20, 0]]))
    found = run(path, painted.detector(200, 40))
    assert len(found.boxes) >= 1 and (found.boxes[:, 2] > 100).all()


def test_every_call_has_one_shape(tmp_path):
    shapes = []

    def predict(tiles):
        shapes.append(tiles.shape)
        return painted.find_rectangles(tiles)

    path = painted.write(tmp_path / "s.tif", painted.paint(300, 170, [[80, 80, 40, 20, 0.3]]))
    found = run(path, painted.detector(128, 32, batch_size=4, predict=predict))
    assert set(shapes) == {(4, 128, 128, 3)} and len(found.boxes) == 1


def test_scores_below_the_threshold_are_dropped(tmp_path):
    image = painted.paint(200, 200, [[50, 50, 60, 40, 0], [150, 150, 10, 8, 0]])
    path = painted.write(tmp_path / "s.tif", image)
    assert len(run(path, painted.detector(128, 64), min_score=0.995).boxes) == 1


@pytest.mark.parametrize("kind", ["nodata", "given", "mask", "nan"])
def test_nothing_is_found_where_there_is_no_data(tmp_path, kind):
    """The left half is no data, though as bright as the objects; a tile of nothing is not run."""
    image = painted.paint(256, 512, [[128, 128, 24, 12, 0.4], [400, 128, 24, 12, 0.4]])
    image[:, :256][image[:, :256] < 100] = 255
    profile, reading = {}, Reading()
    if kind == "nodata":
        image[:, :256], profile["nodata"] = 255, 255
    elif kind == "given":
        image[:, :256], reading = 255, Reading(nodata=255)
    elif kind == "mask":
        profile["mask"] = np.repeat([[0, 255]], 256, 0).repeat(256, 1).astype(np.uint8)
    else:
        image = image.astype(np.float32)
        image[:, :256], reading = np.nan, Reading(stretch=(0, 255))
    seen = []

    def predict(tiles):
        seen.extend(tiles)
        return painted.find_rectangles(tiles)

    path = painted.write(tmp_path / "s.tif", image, **profile)
    found = run(path, painted.detector(128, 32, 1, predict), reading)
    assert len(found.boxes) == 1 and abs(found.boxes[0, 0] - 400) < 2
    assert len(seen) == 9
    assert all(tile.min(-1).max() <= 220 for tile in seen)


def test_a_scene_of_nothing_is_not_predicted(tmp_path):
    def predict(tiles):
        raise AssertionError("called")

    path = painted.write(tmp_path / "s.tif", np.zeros((300, 300, 3), np.uint8), nodata=0)
    assert len(run(path, painted.detector(128, 32, predict=predict)).boxes) == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.7))
def test_merging_band_by_band_is_nms_of_all_at_once(seed, threshold):
    rng = np.random.default_rng(seed)
    height, reach = 400.0, 40.0
    rows = np.sort(rng.uniform(0, height, 80))
    boxes = np.stack(
        [rng.uniform(0, 90, 80), rows, *rng.uniform(4, 40, (2, 80)), rng.uniform(-2, 2, 80)], 1
    )
    found = Found(boxes, rng.permutation(80) / 80, rng.integers(0, 2, 80))
    merger, parts = Merger(threshold), []
    for top in np.arange(0, height, 60):
        merger.add(found.where((rows >= top) & (rows < top + 60)))
        parts.append(merger.finish(top + 60 - reach))  # half the longest diagonal is less
    parts.append(merger.finish(np.inf))
    keep = jax.jit(rotated_nms)(boxes, found.scores, threshold, found.classes)
    corners = to_corners(boxes)
    i, j = np.triu_indices(80, 1)
    overlaps = polygon_iou(corners[i], corners[j])
    if np.abs(overlaps - threshold).min() > 1e-5:  # not a question of float32
        expected = sorted(map(tuple, boxes[np.asarray(keep)]))
        assert sorted(map(tuple, join(parts).boxes)) == expected
        assert sum(len(part.boxes) > 0 for part in parts) > 2
