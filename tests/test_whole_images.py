"""Detectors on whole images: tiles, merging, scores and what is written."""

import math

import cv2
import jax
import numpy as np
import pytest
import shapely

from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.data.detection_images import LabelledImage, open_labelled_images
from rsfm_jax.data.formats import Objects, dior, dota
from rsfm_jax.evaluation.detection_pictures import Boxes, draw_detections, picture
from rsfm_jax.evaluation.detection_submission import read_submission
from rsfm_jax.evaluation.sliding_windows import Windows
from rsfm_jax.evaluation.tiled_detection import Tiling, detect
from rsfm_jax.evaluation.whole_images import Settings, evaluate_whole_images
from tests.known_detector import find_objects, known_detector, number_pixels, plain

OF_LABELS = {"per_class.md", "figures/precision_recall.png", "figures/confusion.png"}
CLASSES = ("round", "long", "none")
FILL = (124, 116, 104)


def tiling(size, overlap, scales=(1.0,), batch_size=3):
    return Tiling(Windows(size, size - overlap), scales, FILL, batch_size)


def settings(size, overlap, protocol="dota_v2", **options):
    return Settings(protocol, tiling(size, overlap, **options), 0.3)


def random_find(room, spread):
    """`find` that gives 40 boxes a tile, some beyond its edges; centres to `spread` tile sides."""

    def find(number, x, y, size):
        rng = np.random.default_rng((number, x, y))
        boxes = np.concatenate(
            [
                rng.uniform(-0.1, spread, (room, 2)) * size,
                rng.uniform(5, 40, (room, 2)),
                rng.uniform(-np.pi / 2, np.pi / 2, (room, 1)),
            ],
            axis=1,
        )
        return np.float32(boxes), rng.random(room), rng.integers(0, 3, room)

    return find


def greedy_by_shapely(boxes, scores, classes):
    """The plain loop over all boxes of an image in float64: indices of those that stay."""
    shapes = shapely.polygons(to_corners(boxes))
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        rivals = [j for j in kept if classes[j] == classes[i]]
        common = shapely.area(shapely.intersection(shapes[i], shapes[rivals]))
        union = shapely.area(shapes[i]) + shapely.area(shapes[rivals]) - common
        if not (common > 0.1 * union).any():
            kept.append(i)
    return kept


def test_merged_as_if_by_the_plain_loop():
    """Two images, sizes no multiples of the stride, batches that run over from one to the other."""
    images = number_pixels([plain(301, 410, "a"), plain(150, 99, "b")])
    find = random_find(40, 1.1)
    results = list(detect(images, known_detector(find), tiling(128, 48)))
    starts = {0: ([0, 80, 160, 173], [0, 80, 160, 240, 282]), 1: ([0, 22], [0])}
    assert [image.name for image, _ in results] == ["a", "b"]
    for number, (image, found) in enumerate(results):
        height, width = image.pixels.shape[:2]
        parts = []
        for y in starts[number][0]:
            for x in starts[number][1]:
                boxes, scores, classes = find(number, x, y, 128)
                parts.append((np.float64(boxes) + [x, y, 0, 0, 0], np.float32(scores), classes))
        boxes, scores, classes = (np.concatenate(column) for column in zip(*parts, strict=True))
        inside = (boxes[:, 0] >= 0) & (boxes[:, 0] < width)
        inside &= (boxes[:, 1] >= 0) & (boxes[:, 1] < height)
        boxes, scores, classes = boxes[inside], scores[inside], classes[inside]
        kept = greedy_by_shapely(boxes, scores, classes)
        assert 30 < len(kept) < len(boxes)
        order = np.argsort(-found.scores, kind="stable")
        np.testing.assert_allclose(found.boxes[order], boxes[kept], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(found.classes[order], classes[kept])


@pytest.mark.parametrize(
    ("folder", "split", "classes", "protocol"),
    [
        ("dota", "train", dota.CLASSES["1.0"], "dota_v1"),
        ("dota_half", "train", dota.CLASSES["1.0"], "dota_v1_5"),
        ("dota_vhr10", "train", dota.CLASSES["1.0"], "dota_v1"),
        ("dior_r_vhr10", "test", dior.CLASSES, "dior_r"),
    ],
)
def test_known_objects_of_real_images_score_1(
    real_data, tmp_path, folder, split, classes, protocol
):
    """Every tile tells all objects that it touches, each a little elsewhere: one of them stays."""
    images = list(open_labelled_images(str(real_data / folder), split, classes))[:4]
    images = number_pixels(images)
    predict = known_detector(find_objects(images))
    how = settings(384, 100, protocol)
    metrics = evaluate_whole_images(images, predict, classes, how, tmp_path)
    present = {classes[label] for image in images for label in image.objects.labels}
    for name in present:
        assert metrics.get(f"AP50/{name}", 1.0) == 1.0  # not there: all are difficult
    assert metrics["mAP50"] == 1.0 and 0.6 < metrics["mAP50:95"] <= 1.0
    submitted = read_submission(tmp_path / "submission.zip", classes)
    assert set(submitted.image) <= {image.name for image in images}
    assert len(submitted) == sum(len(image.objects.labels) for image in images)


def test_one_tile_that_holds_the_image_gives_what_was_predicted():
    objects = Objects.stack([(square(x, 40), 1, 0) for x in (30, 60, 90)])
    images = number_pixels([plain(100, 120, objects=objects)])
    find = find_objects(images)
    ((_, found),) = detect(images, known_detector(find), tiling(128, 32))
    boxes, scores, classes = find_objects(images)(0, 0, 0, 128)
    order = np.argsort(-scores)
    np.testing.assert_array_equal(found.boxes, np.float64(np.float32(boxes[order])))
    np.testing.assert_array_equal(found.scores, np.float32(scores[order]))
    np.testing.assert_array_equal(found.classes, classes)


def square(x, y, half=5):
    return np.array([[x - half, y - half], [x + half, y - half],
                     [x + half, y + half], [x - half, y + half]])  # fmt: skip


def test_nothing_is_found_beyond_the_image():
    """The tile is filled up to the right and below; boxes are predicted all over it."""
    shown = []

    def predict(tiles):
        shown.append(tiles)
        return known_detector(random_find(1000, 1.0))(tiles)

    ((_, found),) = detect(number_pixels([plain(40, 60)]), predict, tiling(128, 32))
    assert (shown[0][0, 40:] == FILL).all() and (shown[0][0, :, 60:] == FILL).all()
    assert len(found.scores) > 20
    assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, :2] < [60, 40]).all()


def test_scales_go_back_to_the_image():
    painted = pytest.importorskip("tests.painted")
    boxes = np.array([[80, 70, 90, 60, 0.4], [280, 90, 120, 64, -1.1], [200, 220, 70, 66, 1.3]])
    image = LabelledImage("a", painted.paint(300, 400, boxes), None)
    for scales in ((0.5,), (1.0,), (1.5,), (0.5, 1.0, 1.5)):
        how = tiling(640, 100, scales)
        ((_, found),) = detect([image], painted.find_rectangles, how)
        assert len(found.boxes) == len(boxes)
        ious = shapely_iou(to_corners(found.boxes), to_corners(boxes))
        assert (ious.max(axis=1) > 0.85).all() and (ious.max(axis=0) > 0.85).all()


def shapely_iou(p, q):
    p, q = shapely.polygons(p)[:, None], shapely.polygons(q)
    return shapely.area(shapely.intersection(p, q)) / shapely.area(shapely.union(p, q))


def test_every_call_has_one_shape():
    shapes = []

    def predict(tiles):
        shapes.append(tiles.shape)
        return known_detector(random_find(5, 1.0))(tiles)

    images = number_pixels([plain(130, 70), plain(60, 300), plain(1, 1)])
    assert len(list(detect(images, predict, tiling(64, 16, batch_size=4)))) == 3
    assert set(shapes) == {(4, 64, 64, 3)} and len(shapes) == math.ceil((3 * 2 + 6 + 1) / 4)


def test_images_without_objects(tmp_path):
    empty = Objects.stack([])
    images = number_pixels([plain(100, 90, "a", empty), plain(50, 50, "b", empty)])
    predict = known_detector(random_find(10, 1.0))
    metrics = evaluate_whole_images(images, predict, CLASSES, settings(64, 16), tmp_path)
    assert math.isnan(metrics["mAP50"]) and math.isnan(metrics["mAP50:95"]) and len(metrics) == 2
    written(tmp_path, labelled=True)


def test_nothing_detected(tmp_path):
    objects = Objects.stack([(square(30, 30), 1, 0)])
    images = number_pixels([plain(60, 60, objects=objects)])
    predict = known_detector(random_find(0, 1.0))
    metrics = evaluate_whole_images(images, predict, CLASSES, settings(64, 16), tmp_path)
    assert metrics == {"mAP50": 0.0, "mAP50:95": 0.0, "AP50/long": 0.0}
    written(tmp_path, labelled=True)
    assert len(read_submission(tmp_path / "submission.zip", CLASSES)) == 0


def test_without_labels_there_is_a_submission(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in OF_LABELS:
        (tmp_path / name).write_text("of an earlier evaluation")
    images = number_pixels([plain(100, 90, "P0006"), plain(50, 50, "P0007")])
    predict = known_detector(random_find(10, 1.0))
    assert evaluate_whole_images(images, predict, CLASSES, settings(64, 16), tmp_path) == {}
    written(tmp_path, labelled=False)
    submitted = read_submission(tmp_path / "submission.zip", CLASSES)
    expected = [found for _, found in detect(images, predict, tiling(64, 16))]
    assert len(submitted) == sum(len(found.scores) for found in expected)
    assert set(submitted.image) == {"P0006", "P0007"}


def written(folder, labelled):
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    always = {"submission.zip", "figures/detections.png"}
    assert files == (always | OF_LABELS if labelled else always)


def test_table(tmp_path):
    """Two of class long: one found, one missed, by hand; one of class round at IoU 0.6."""
    objects = Objects.stack(
        [(square(20, 20), 1, 0), (square(60, 20), 1, 0), (square(20, 60, 10), 0, 1)]
    )
    images = number_pixels([plain(90, 90, objects=objects)])

    def find(number, x, y, size):
        # 20 x 12 within the 20 x 20 of class round: IoU 0.6.
        boxes = np.array([[20, 20, 10, 10, 0], [20, 60, 20, 12, 0]])
        return boxes, np.array([0.9, 0.8]), np.array([1, 0])

    metrics = evaluate_whole_images(
        images, known_detector(find), CLASSES, settings(128, 0), tmp_path
    )
    half = 6 / 11  # precision 1 at recalls 0 to 0.5, eleven points
    assert metrics["AP50/long"] == pytest.approx(half) and metrics["AP50/round"] == 1.0
    assert metrics["mAP50"] == pytest.approx((1 + half) / 2)
    table = (tmp_path / "per_class.md").read_text().splitlines()
    assert table[0] == "1 images, protocol dota_v2"
    assert table[4:] == [
        "| round | 1 | 1 | 1.0000 | 0.0000 | 0.2000 |",
        "| long | 2 | 1 | 0.5455 | 0.5455 | 0.5455 |",
        "| none | 0 | 0 |  |  |  |",
        "| **mean** | 3 | 2 | 0.7727 | 0.2727 | 0.3727 |",
    ]


def test_other_processes_compute_but_write_nothing(tmp_path, monkeypatch):
    objects = Objects.stack([(square(30, 30), 1, 0)])
    images = number_pixels([plain(60, 60, objects=objects)])
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    metrics = evaluate_whole_images(
        images, known_detector(find_objects(images)), CLASSES, settings(64, 16), tmp_path
    )
    assert metrics["mAP50"] == 1.0 and not list(tmp_path.iterdir())


def test_pictures_of_images_without_objects(tmp_path):
    """Where every list is empty, numpy takes the labels for floats."""
    nothing = Boxes(np.zeros((0, 4, 2)), np.array([]))
    pixels = np.zeros((32, 48, 3), np.uint8)
    pictures = [picture("empty", pixels, truths, nothing) for truths in (nothing, None)]
    draw_detections(tmp_path / "detections.png", pictures, ("plane",), 0.3)
    assert cv2.imread(str(tmp_path / "detections.png")) is not None
