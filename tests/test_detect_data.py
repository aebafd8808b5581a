"""Views with their objects, and the square's symmetries, against shapely, OpenCV and pixels."""

import itertools

import cv2
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon, box

from rsfm_jax.boxes.geometry import canonical, to_corners
from rsfm_jax.boxes.truths import Truths
from rsfm_jax.data.detection import DetectionTransform, check_classes
from rsfm_jax.data.symmetries import Symmetries, apply_to_boxes, apply_to_images, draw_symmetries
from rsfm_jax.errors import UserError

SIZE = 64
FILL = (9, 8, 7)
EIGHT = Symmetries(*np.array(list(itertools.product([False, True], repeat=3))).T)
move_boxes = jax.jit(apply_to_boxes, static_argnums=2)


def transform(**changes) -> DetectionTransform:
    plain = {
        "size": SIZE,
        "scale_range": (1.0, 1.0),
        "rotation": 0.0,
        "upright_classes": (),
        "near_objects": 0.0,
        "kept_share": 0.7,
        "keep_difficult": True,
        "room": 8,
        "fill": FILL,
    }
    return DetectionTransform(**plain | changes)


def example(image, polygons=(), labels=None, difficult=None):
    polygons = np.asarray(polygons, np.float32).reshape(-1, 4, 2)
    count = len(polygons)
    return {
        "image": image,
        "polygons": polygons,
        "labels": np.zeros(count, np.int64) if labels is None else np.asarray(labels),
        "difficult": np.zeros(count, np.uint8) if difficult is None else np.asarray(difficult),
    }


def seeded(seed=0):
    return np.random.default_rng(seed)


def noise(height, width):
    return seeded().integers(10, 256, (height, width, 3), np.uint8)


def square(x, y, half=4.0):
    return [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]


def iou(p, q):
    p, q = Polygon(p), Polygon(q)
    return p.intersection(q).area / p.union(q).area


def painted(polygon, height, width):
    """White on black: the pixels whose centres lie in a clockwise polygon."""
    y, x = np.mgrid[:height, :width] + 0.5
    corners = np.asarray(polygon, np.float64)
    inside = np.ones((height, width), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
        inside &= (x1 - x0) * (y - y0) >= (y1 - y0) * (x - x0)
    return np.repeat(255 * inside[..., None], 3, -1).astype(np.uint8)


def drawn_box(image):
    """Corners of the rectangle with the first and second moments of what is white."""
    points = np.argwhere(image[..., 0] > 127)[:, ::-1] + 0.5
    variances, axes = np.linalg.eigh(np.cov(points.T))
    (h, w), along = np.sqrt(12 * variances), axes[:, 1]
    return to_corners(np.array([*points.mean(0), w, h, np.arctan2(along[1], along[0])]))


BOXES = st.tuples(
    st.floats(0, SIZE),
    st.floats(0, SIZE),
    st.floats(1, 60),
    st.floats(1, 60),
    st.floats(-np.pi / 2, np.pi / 2 - 1e-6),
)


@settings(max_examples=40, deadline=None)
@given(BOXES)
@hypothesis.example((0.0, 0.0, 1.0, 2.0, -1e-9))  # its angle rounds up to a quarter turn
def test_symmetries_move_corners_as_they_move_points(numbers):
    given_box = canonical(np.array(numbers, np.float32))
    moved = np.asarray(move_boxes(np.tile(given_box, (8, 1, 1)), EIGHT, SIZE))
    for *chosen, result in zip(*EIGHT, moved[:, 0], strict=True):
        points = to_corners(given_box.astype(np.float64))
        if chosen[0]:
            points = np.array([SIZE, 0]) + points * [-1, 1]
        if chosen[1]:
            points = np.array([0, SIZE]) + points * [1, -1]
        if chosen[2]:
            points = np.column_stack([SIZE - points[:, 1], points[:, 0]])
        assert iou(points, to_corners(result.astype(np.float64))) > 0.999
        assert result[2] >= result[3] and -np.pi / 2 <= result[4] < np.pi / 2


def test_symmetries_move_images_and_boxes_alike():
    polygon = [(10, 20), (40, 12), (43, 23), (13, 31)]
    truth = transform()(example(painted(polygon, SIZE, SIZE), [polygon]), seeded())
    images = np.asarray(jax.jit(apply_to_images)(np.stack([truth["image"]] * 8), EIGHT))
    boxes = np.asarray(move_boxes(np.stack([truth["boxes"]] * 8), EIGHT, SIZE))
    assert len({image.tobytes() for image in images}) == 8
    for image, rows in zip(images, boxes, strict=True):
        assert iou(drawn_box(image), to_corners(rows[0].astype(np.float64))) > 0.9
        assert (rows[1:] == 0).all()  # padding stays padding
    assert (images[1] == np.rot90(truth["image"], -1)).all()  # turned clockwise, nothing else


def test_symmetries_are_drawn_with_their_chances():
    rng = jnp.asarray([0, 7], jnp.uint32)
    drawn = np.stack(draw_symmetries(rng, 4000, 0.5, 0.0, 1.0))
    assert abs(drawn[0].mean() - 0.5) < 0.04
    assert not drawn[1].any() and drawn[2].all()


def test_an_image_of_the_size_of_the_view_stays_as_it_is():
    polygon = [(10, 20), (40, 12), (43, 23), (13, 31)]
    image = noise(SIZE, SIZE)
    truth = transform()(example(image, [polygon], [3]), seeded())
    assert (truth["image"] == image).all()
    assert truth["valid"].tolist() == [True] + [False] * 7
    assert truth["classes"][0] == 3 and truth["truncated"] == 0
    reference = cv2.boxPoints(cv2.minAreaRect(np.float32(polygon)))
    assert iou(reference, to_corners(truth["boxes"][0].astype(np.float64))) > 0.9999
    assert {name: (x.shape, x.dtype) for name, x in truth.items()} == {
        "image": ((SIZE, SIZE, 3), np.uint8),
        "boxes": ((8, 5), np.float32),
        "classes": ((8,), np.int32),
        "valid": ((8,), bool),
        "truncated": ((), np.int32),
    }


@pytest.mark.parametrize("seed", range(4))
def test_a_small_image_lies_whole_in_the_view(seed):
    image = noise(30, 40)
    truth = transform()(example(image, [square(20, 10)]), seeded(seed))
    rows, columns = np.nonzero((truth["image"] != FILL).all(-1))
    top, left = rows.min(), columns.min()
    assert (truth["image"][top : top + 30, left : left + 40] == image).all()
    assert len(rows) == 30 * 40
    np.testing.assert_allclose(truth["boxes"][0], [left + 20, top + 10, 8, 8, 0], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(0.5, 0.9), (1.1, 2.0), (1.0, 1.0)]),
    st.sampled_from([0.0, 1.0]),
    st.floats(-1.5, 1.5),
)
def test_objects_move_with_their_pixels(seed, scales, rotation, angle):
    polygon = to_corners(np.array([60, 45, 34, 16, angle]))
    view = transform(scale_range=scales, rotation=rotation, near_objects=1.0, kept_share=0.999)
    truth = view(example(painted(polygon, 90, 120), [polygon]), seeded(seed))
    if truth["valid"][0]:  # else an edge of the view cuts it
        assert iou(drawn_box(truth["image"]), to_corners(truth["boxes"][0])) > 0.8


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_objects_stay_by_their_share_in_the_view(seed):
    rng = seeded(seed)
    centres, angles = rng.uniform(-10, SIZE + 10, (8, 2)), rng.uniform(-1.5, 1.5, 8)
    boxes = np.column_stack([centres, rng.uniform(4, 30, (8, 2)), angles])
    polygons = to_corners(boxes).astype(np.float32)
    truth = transform()(example(noise(SIZE, SIZE), polygons, np.arange(8)), seeded())
    frame = box(0, 0, SIZE, SIZE)
    shares = [Polygon(p).intersection(frame).area / Polygon(p).area for p in polygons]
    expected = [i for i, share in enumerate(shares) if share >= 0.7]
    assert truth["classes"][truth["valid"]].tolist() == expected


def test_views_near_objects_hold_one():
    image, far = noise(600, 900), square(850, 500)
    view = transform(near_objects=1.0)
    assert all(view(example(image, [far]), seeded(i))["valid"].any() for i in range(20))
    anywhere = [transform()(example(image, [far]), seeded(i))["valid"].any() for i in range(20)]
    assert not all(anywhere)


def test_upright_classes_turn_by_quarters_only():
    polygon = to_corners(np.array([32, 32, 20, 8, 0.0]))
    view = transform(rotation=1.0, upright_classes=(5,))
    boxes = np.stack(
        [
            view(example(noise(SIZE, SIZE), [polygon, square(8, 8)], [1, label]), seeded(seed))[
                "boxes"
            ][0]
            for label in (5, 6)
            for seed in range(6)
        ]
    )
    quarters = boxes[:, 4] / (np.pi / 2)
    off = np.abs(quarters - np.round(quarters))
    assert (off[:6] < 1e-5).all() and (off[6:] > 1e-5).any()
    np.testing.assert_allclose(boxes[:, 2:4], [[20, 8]] * 12, rtol=1e-4)


def test_difficult_objects_train_unless_told():
    crowd = example(noise(SIZE, SIZE), [square(10, 10), square(30, 30)], [1, 2], [1, 0])
    assert transform()(crowd, seeded())["classes"][:2].tolist() == [1, 2]
    easy = transform(keep_difficult=False)(crowd, seeded())
    assert easy["classes"][easy["valid"]].tolist() == [2]


def test_images_of_any_size_and_any_number_of_objects():
    nothing = transform()(example(noise(SIZE, SIZE)), seeded())
    assert not nothing["valid"].any() and nothing["truncated"] == 0

    centres = seeded().uniform(10, 54, (5000, 2))
    squares = [square(*c) for c in centres]
    crowd = transform()(example(noise(SIZE, SIZE), squares, np.arange(5000)), seeded())
    assert crowd["valid"].all() and crowd["truncated"] == 5000 - 8
    np.testing.assert_allclose(crowd["boxes"][:, :2], centres[crowd["classes"]], atol=1e-3)
    assert crowd["classes"].max() > 8  # any of them, not the first

    outside = [square(-50, 10), square(10, 500), np.full((4, 2), np.nan), [(5, 5)] * 4]
    assert not transform()(example(noise(SIZE, SIZE), outside), seeded())["valid"].any()

    pixel = transform(scale_range=(0.1, 0.3), rotation=1.0)(example(noise(1, 1)), seeded())
    assert pixel["image"].shape == (SIZE, SIZE, 3)


def test_classes_of_a_source_have_to_be_those_of_the_config():
    check_classes(("ship", "plane"), ("ship", "plane"), "data")
    for names, reason in [
        ((), "'data' has no labelled objects"),
        (("plane", "ship"), "2 classes, config.data.classes 2, in another order"),
        (("ship", "car"), "missing plane; unknown car"),
    ]:
        with pytest.raises(UserError, match=reason):
            check_classes(names, ("ship", "plane"), "data")


def test_truths_have_the_names_of_the_batch():
    assert set(transform()(example(noise(8, 8)), seeded())) == {"image", *Truths._fields}
