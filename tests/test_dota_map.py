"""DOTA Task 1 evaluation against hand-made cases and a slow implementation with shapely."""

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import shapely

from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.data.formats.dota import CLASSES, parse_labels
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation import dota_map
from rsfm_jax.evaluation.detection_ap import area_average_precision, voc07_average_precision
from rsfm_jax.evaluation.detection_confusion import confusion_matrix
from rsfm_jax.evaluation.detection_figures import draw_confusion, draw_precision_recall
from rsfm_jax.evaluation.detection_match import Detections, Truths
from rsfm_jax.evaluation.detection_submission import read_submission, write_submission
from rsfm_jax.evaluation.dota_map import DIOR_R, DOTA_V1, DOTA_V1_5, Protocol, evaluate

REAL_DOTA = Path(__file__).parents[2] / "shared" / "data" / "real" / "dota" / "labelTxt"
AREA = Protocol(area_average_precision, skip_difficult=True)


def slow_average_precision(detections, truths, label, threshold, voc07, skip_difficult):
    """The devkit's rules, one detection at a time, with shapely's polygons."""
    objects = {}
    for image, quad, own, difficult in zip(
        truths.image, truths.polygons, truths.labels, truths.difficult, strict=True
    ):
        if own == label:
            entry = [shapely.Polygon(quad), bool(difficult) and skip_difficult, False]
            objects.setdefault(image, []).append(entry)
    count = sum(not entry[1] for entries in objects.values() for entry in entries)
    rows = [i for i in range(len(detections)) if detections.labels[i] == label]
    true = false = 0
    recall, precision = [], []
    for i in sorted(rows, key=lambda i: -detections.scores[i]):
        quad = shapely.Polygon(detections.polygons[i])
        best, which = -1.0, None
        for entry in objects.get(detections.image[i], []):
            common = quad.intersection(entry[0]).area
            overlap = common / (quad.area + entry[0].area - common)
            if overlap > best:
                best, which = overlap, entry
        if best > threshold:
            if not which[1]:
                if which[2]:
                    false += 1
                else:
                    true, which[2] = true + 1, True
        else:
            false += 1
        recall.append(true / count)
        precision.append(true / (true + false) if true + false else 0)
    if voc07:
        tops = [max([p for r, p in zip(recall, precision, strict=True) if r >= level], default=0)
                for level in np.arange(0, 1.1, 0.1)]  # fmt: skip
        return sum(tops) / 11
    area, last = 0, 0
    for i, r in enumerate(recall):
        if r != last:
            area += (r - last) * max(precision[i:])
        last = r
    return area


def random_scene(seed, images=6, classes=3, objects=12):
    """Truths, and detections that are near copies, repeats, misses and false alarms."""
    rng = np.random.default_rng(seed)
    n = images * objects
    boxes = np.stack([*rng.uniform(0, 150, (2, n)), *rng.uniform(8, 40, (2, n)),
                      rng.uniform(-1.5, 1.5, n)], axis=1)  # fmt: skip
    names = np.array([f"P{i:04}" for i in range(images)])
    truths = Truths(rng.choice(names, n), to_corners(boxes), rng.integers(0, classes, n),
                    rng.random(n) < 0.2)  # fmt: skip
    pick = rng.integers(0, n, 2 * n)
    shift = rng.normal(0, 1, (2 * n, 5)) * [3, 3, 3, 3, 0.15]
    labels = np.where(rng.random(2 * n) < 0.1, 0, truths.labels[pick])
    moved = np.abs(boxes[pick] + shift) * np.where(np.arange(5) < 4, 1, np.sign(boxes[pick]))
    scores = rng.permutation(2 * n) / (2.0 * n)
    return Detections(truths.image[pick], to_corners(moved), labels, scores), truths


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("voc07", [True, False])
@pytest.mark.parametrize("skip_difficult", [True, False])
def test_equals_the_slow_implementation(seed, voc07, skip_difficult):
    detections, truths = random_scene(seed)
    average = voc07_average_precision if voc07 else area_average_precision
    thresholds = (0.5, 0.75)
    result = evaluate(detections, truths, "abc", Protocol(average, skip_difficult), thresholds)
    for label, i in np.ndindex(3, 2):
        slow = slow_average_precision(
            detections, truths, label, thresholds[i], voc07, skip_difficult
        )
        assert result.average_precision[label, i] == pytest.approx(slow, abs=1e-12)
    assert 0.1 < result.mean < 0.95


def square(x, side=10.0):
    return to_corners(np.array([x, 0, side, side, 0.0]))


def one_class(rows, objects):
    """rows: (image, x, score), objects: (image, x, difficult), all squares of side 10 at (x, 0)."""
    image, x, score = zip(*rows, strict=True)
    detections = Detections(np.array(image), np.stack([square(v) for v in x]),
                            np.zeros(len(x), int), np.array(score, float))  # fmt: skip
    image, x, difficult = zip(*objects, strict=True)
    truths = Truths(np.array(image), np.stack([square(v) for v in x]), np.zeros(len(x), int),
                    np.array(difficult))  # fmt: skip
    return detections, truths


def area_ap(rows, objects, protocol=AREA):
    return evaluate(*one_class(rows, objects), ["plane"], protocol).mean


def test_repeats_are_false_and_images_are_apart():
    objects = [("a", 0, 0), ("b", 0, 0)]
    assert area_ap([("a", 0, 0.9), ("b", 0, 0.8)], objects) == 1
    # The repeat at rank 2 lowers the precision at full recall to 2/3: (1 + 2/3) / 2.
    assert area_ap([("a", 0, 0.9), ("a", 1, 0.8), ("b", 0, 0.7)], objects) == pytest.approx(5 / 6)
    assert area_ap([("a", 0, 0.9), ("c", 0, 0.8)], objects) == 0.5


def test_only_the_best_object_is_looked_at():
    """The second detection overlaps the found object most, so the other one stays missed."""
    objects = [("a", 0, 0), ("a", 3, 0)]
    rows = [("a", 0, 0.9), ("a", 1, 0.8)]  # IoU 9/11 with the first, 8/12 with the second
    assert area_ap(rows, objects) == 0.5


def test_difficult_objects_count_for_nothing_either_way():
    objects = [("a", 0, 1), ("a", 100, 0)]
    rows = [("a", 0, 0.9), ("a", 1, 0.8), ("a", 100, 0.7)]
    assert area_ap(rows, objects) == 1
    # v1.5 reads the difficulty as 0: two objects, a repeat between them.
    ordinary = Protocol(area_average_precision, skip_difficult=False)
    assert area_ap(rows, objects, ordinary) == pytest.approx((1 + 2 / 3) / 2)
    assert area_ap(rows, objects, DOTA_V1_5) < 1 == area_ap(rows, objects, DOTA_V1)
    # A difficult object of larger overlap hides an ordinary one.
    assert area_ap([("a", 1, 0.9)], [("a", 0, 1), ("a", 3, 0)]) == 0


def test_overlap_must_exceed_one_half():
    half = to_corners(np.array([[0, 0, 10, 5, 0.0]]))  # IoU with the square: exactly 1/2
    _, truths = one_class([("a", 0, 1)], [("a", 0, 0)])
    detections = Detections(np.array(["a"]), half, np.array([0]), np.array([1.0]))
    assert evaluate(detections, truths, ["plane"], DOTA_V1).mean == 0
    assert evaluate(detections, truths, ["plane"], DOTA_V1, (0.4999,)).mean == 1


def test_recall_of_three_tenths_does_not_reach_the_fourth_level():
    """0.1 * 3 is 0.30000000000000004: three of the eleven levels are reached, not four."""
    objects = [("a", 100 * i, 0) for i in range(10)]
    rows = [("a", 100 * i, 1 - i / 10) for i in range(3)]
    assert area_ap(rows, objects, DIOR_R) == pytest.approx(3 / 11)
    assert area_ap(rows[:2], objects, DIOR_R) == pytest.approx(3 / 11)  # 0.2 reaches its level


def test_real_labels_found_perfectly_and_after_a_shift():
    if not REAL_DOTA.is_dir():
        pytest.skip(f"no sample of real DOTA labels at {REAL_DOTA}")
    parts = [(p.stem, parse_labels(p.read_text(), p.name, CLASSES["1.0"]))
             for p in sorted(REAL_DOTA.glob("*.txt"))]  # fmt: skip
    image = np.concatenate([np.full(len(o.labels), name) for name, o in parts])
    polygons, labels, difficult = (np.concatenate(x) for x in zip(*(o for _, o in parts),
                                                                 strict=True))  # fmt: skip
    truths = Truths(image, polygons, labels, difficult)
    scores = np.random.default_rng(0).random(len(labels))
    result = evaluate(Detections(image, polygons, labels, scores), truths, CLASSES["1.0"],
                      DOTA_V1, dota_map.COCO_THRESHOLDS)  # fmt: skip
    assert len(labels) > 500 and result.mean == pytest.approx(1)
    assert result.mean_over_thresholds == pytest.approx(1)
    moved = Detections(image, polygons + 4, labels, scores)
    result = evaluate(moved, truths, CLASSES["1.0"], DOTA_V1)
    for label in np.flatnonzero(result.objects):
        slow = slow_average_precision(moved, truths, label, 0.5, True, True)
        assert result.average_precision[label, 0] == pytest.approx(slow, abs=1e-12)
    assert 0 < result.mean < 1


def test_metrics_and_classes_without_objects():
    detections, truths = random_scene(0)
    result = evaluate(detections, truths, "abcd", DOTA_V1, dota_map.COCO_THRESHOLDS)
    metrics = result.metrics()
    assert set(metrics) == {"mAP50", "mAP50:95", "AP50/a", "AP50/b", "AP50/c"}
    assert metrics["mAP50"] == pytest.approx(np.mean([metrics[f"AP50/{c}"] for c in "abc"]))
    assert metrics["mAP50:95"] < metrics["mAP50"]
    curve = result.curves[0]
    assert (np.diff(curve.scores) <= 0).all() and (np.diff(curve.recall) >= 0).all()
    assert dota_map.COCO_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_nothing_detected_and_nothing_to_find():
    detections, truths = random_scene(0)
    none = detections.where(np.zeros(0, int))
    assert evaluate(none, truths, "abc", DOTA_V1).mean == 0
    assert math.isnan(evaluate(detections, truths.where(np.zeros(0, int)), "abc", DOTA_V1).mean)
    matrix = confusion_matrix(none, truths, 3, 0.5)
    assert matrix[:3, 3].sum() == len(truths) == matrix.sum()


def test_confusion_by_hand():
    quads = np.stack([square(x) for x in (0, 2, 100, 200, 300)])
    truths = Truths(np.zeros(3, int), quads[[0, 2, 3]], np.array([0, 1, 1]), np.zeros(3, bool))
    detections = Detections(np.zeros(5, int), quads[[0, 1, 2, 4, 3]], np.array([0, 0, 0, 1, 1]),
                            np.array([0.6, 0.9, 0.8, 0.7, 0.1]))  # fmt: skip
    # The exact copy is paired before the surer shifted one; the last detection is too unsure.
    expected = [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    np.testing.assert_array_equal(confusion_matrix(detections, truths, 2, 0.3), expected)


def test_submission_round_trip(tmp_path):
    detections, truths = random_scene(1)
    path = tmp_path / "results" / "task1.zip"
    write_submission(path, detections, ["ship", "harbor", "small-vehicle", "plane"])
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"Task1_{c}.txt" for c in
                                      ("ship", "harbor", "small-vehicle", "plane")]  # fmt: skip
        first = archive.read("Task1_ship.txt").decode().splitlines()[0].split(" ")
        assert len(first) == 10 and len(first[1].split(".")[1]) == 6
        assert archive.read("Task1_plane.txt") == b""
    back = read_submission(path, ["ship", "harbor", "small-vehicle", "plane"])
    assert len(back) == len(detections)
    results = [evaluate(d, truths, "abcd", DOTA_V1) for d in (detections, back)]
    assert results[1].mean == pytest.approx(results[0].mean, abs=1e-12)
    content = path.read_bytes()
    write_submission(path, detections, ["ship", "harbor", "small-vehicle", "plane"])
    assert path.read_bytes() == content and [p.name for p in path.parent.iterdir()] == [path.name]


def test_broken_input_is_named(tmp_path):
    detections, truths = random_scene(1)
    path = tmp_path / "task1.zip"
    with pytest.raises(UserError, match="'two words'"):
        write_submission(path, Detections(np.array(["two words"]), square(0)[None],
                                          np.array([0]), np.array([1.0])), ["a"])  # fmt: skip
    with pytest.raises(UserError, match="finite"):
        write_submission(path, Detections(np.array(["a"]), square(0)[None] * np.nan,
                                          np.array([0]), np.array([1.0])), ["a"])  # fmt: skip
    with pytest.raises(UserError, match="label 2"):
        write_submission(path, detections, ["a", "b"])
    assert not path.exists()
    with pytest.raises(UserError, match="detections.labels"):
        evaluate(detections, truths, ["a", "b"], DOTA_V1)
    with pytest.raises(UserError, match="one length"):
        Truths(truths.image[:3], truths.polygons, truths.labels, truths.difficult)
    with pytest.raises(UserError, match="NaN"):
        Detections(detections.image, detections.polygons, detections.labels,
                   detections.scores * np.nan)  # fmt: skip
    with pytest.raises(UserError, match="not a readable zip"):
        read_submission(path, ["a"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Task1_a.txt", "P1 0.5 0 0 1 0 1 1 0 1\n\nP1 0.5 0 0 1 0 1 1 0\n")
    with pytest.raises(UserError, match=r"Task1_a.txt:3: expected"):
        read_submission(path, ["a"])
    with pytest.raises(UserError, match="Task1_b.txt is missing"):
        read_submission(path, ["b"])


def test_pictures_are_written(tmp_path):
    detections, truths = random_scene(0)
    names = ["a", "$_$", "c"]  # no formula
    draw_precision_recall(tmp_path / "pr.png", evaluate(detections, truths, names, DOTA_V1))
    draw_confusion(tmp_path / "c.png", confusion_matrix(detections, truths, 3, 0.3), names)
    for name in ("pr.png", "c.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
