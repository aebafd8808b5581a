"""Synthetic scenes: a pure function of the seed, with labels that fit what is drawn."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from rsfm_jax.data.synthetic import COVER, SCENE_KINDS, draw_scene

DRAWN = {
    *("plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "ship"),
    *("large-vehicle", "tennis-court", "basketball-court", "storage-tank", "harbor", "helipad"),
    *("soccer-ball-field", "swimming-pool", "container-crane"),
}


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_scene_is_well_formed(kind):
    for seed, size in ((0, 64), (1, 128), (2, 333)):
        scene = draw_scene(seed, size, kind)
        assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
        assert scene.mask.shape == (size, size) and scene.mask.max() < len(COVER)
        assert SCENE_KINDS[scene.kind] == kind
        assert scene.polygons.dtype == np.float32
        assert scene.polygons.shape == (len(scene.classes), 4, 2)
        assert set(scene.classes) <= DRAWN
        assert scene.image.std() > 15  # not a flat sheet
        centres = scene.polygons.mean(1)
        assert ((centres >= 0) & (centres < size)).all()


def test_boxes_are_clockwise_rectangles():
    polygons = np.concatenate([draw_scene(seed, 256).polygons for seed in range(24)])
    sides = np.roll(polygons, -1, 1) - polygons
    turned = np.roll(sides, -1, 1)
    cross = sides[..., 0] * turned[..., 1] - sides[..., 1] * turned[..., 0]
    dot = (sides * turned).sum(-1)
    assert (cross > 0).all()  # clockwise on screen, y down
    assert (np.abs(dot) < 1e-3 * cross).all()
    angles = np.arctan2(sides[:, 0, 1], sides[:, 0, 0])
    assert angles.std() > 0.5  # really rotated


def test_same_seed_same_scene_in_another_process():
    script = (
        "import zlib; from rsfm_jax.data.synthetic import draw_scene\n"
        "s = draw_scene(7, 96)\n"
        "print(zlib.crc32(s.image.tobytes()), zlib.crc32(s.mask.tobytes()), s.polygons.tolist())"
    )
    run = [sys.executable, "-c", script]
    first, second = (subprocess.run(run, capture_output=True, text=True).stdout for _ in range(2))
    assert first and first == second
    assert not np.array_equal(draw_scene(7, 96).image, draw_scene(8, 96).image)


def test_kind_given_equals_kind_drawn():
    drawn = draw_scene(3, 64)
    given = draw_scene(3, 64, SCENE_KINDS[drawn.kind])
    assert np.array_equal(drawn.image, given.image)
    with pytest.raises(KeyError):
        draw_scene(3, 64, "moon")


def test_every_class_label_lies_on_what_was_drawn():
    """Vehicle boxes cover the pixels whose land cover is `car`, and nearly nothing else does."""
    covered = cars = boxed = 0
    for seed in range(12):
        scene = draw_scene(seed, 256, ("parking", "residential", "industrial")[seed % 3])
        boxes = np.zeros_like(scene.mask)
        for polygon, name in zip(scene.polygons, scene.classes, strict=True):
            if name.endswith("vehicle"):
                cv2.fillConvexPoly(boxes, np.rint(polygon - 0.5).astype(np.int32), 1)
        inner = (slice(16, -16), slice(16, -16))  # a car cut by the edge may be unlabelled
        car = scene.mask[inner] == COVER.index("car")
        covered += (car & (boxes[inner] == 1)).sum()
        cars += car.sum()
        boxed += (boxes[inner] == 1).sum()
    assert cars > 5000
    assert covered / cars > 0.9 and covered / boxed > 0.75


def test_kinds_differ_in_structure_more_than_in_colour():
    """A linear probe on gradients beats one on colour means and deviations by far."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def colour(image):
        return np.r_[image.mean((0, 1)), image.std((0, 1))]

    def gradients(image):
        grey, features = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), []
        for _ in range(3):
            dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
            strength = np.hypot(dx, dy)
            turn = np.histogram(np.arctan2(dy, dx), 16, weights=strength)[0]
            features += [np.histogram(strength, 8, (0, 400))[0] / grey.size]
            features += [np.abs(np.fft.rfft(turn)) / turn.sum()]
            grey = cv2.pyrDown(grey)
        return np.concatenate(features)

    scenes = [draw_scene(seed, 96) for seed in range(600)]
    kinds = np.array([scene.kind for scene in scenes])

    def accuracy(features):
        x = np.stack([features(scene.image.astype(np.uint8)) for scene in scenes])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        return model.fit(x[:400], kinds[:400]).score(x[400:], kinds[400:])

    assert accuracy(colour) < 0.62
    assert accuracy(gradients) > 0.88
