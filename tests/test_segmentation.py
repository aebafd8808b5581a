"""Segmentation scores against scikit-learn; evaluation, submission and pictures of tiles."""

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as sklearn_metrics

from rsfm_jax.data.formats import loveda
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.loveda_submission import write_submission
from rsfm_jax.evaluation.segmentation import (
    LOVEDA,
    POTSDAM_5,
    POTSDAM_6,
    Protocol,
    confusion_counts,
    evaluate,
    score,
)
from rsfm_jax.evaluation.segmentation_figures import draw_confusion, draw_examples, overlay
from rsfm_jax.evaluation.sliding_windows import Tile, Windows

WINDOWS = Windows(16, 12)
REAL = Path(__file__).parents[2] / "shared/data/real/loveda/Train/Rural"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([POTSDAM_5, POTSDAM_6, LOVEDA]),
    st.sets(st.integers(0, 6), min_size=1),
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, 999),
)
def test_scores_equal_scikit_learn(protocol, labelled, guessed, seed):
    """Also with classes absent from the labels, the predictions, or both."""
    number = len(protocol.classes)
    rng = np.random.default_rng(seed)
    values = [*(label for label in labelled if label < number), *protocol.ignored]
    mask = rng.choice(values, (13, 17)).astype(np.uint8)
    guesses = [label for label in guessed if label < number] or [0]
    classes = rng.choice(guesses, mask.shape).astype(np.uint8)
    counts = confusion_counts(mask, classes, protocol, "a")
    scores = score(counts)

    counted = ~np.isin(mask, protocol.ignored)
    true, predicted, labels = mask[counted], classes[counted], list(range(number))
    assert counts.dtype == np.int64 and counts.sum() == len(true)
    if not len(true):
        assert np.isnan([*scores.iou, *scores.f1, *scores[2:]]).all()
        return
    expected = sklearn_metrics.confusion_matrix(true, predicted, labels=labels)
    np.testing.assert_array_equal(counts, expected)
    present = np.isin(labels, [*true, *predicted])
    kwargs = {"labels": labels, "average": None, "zero_division": 0}
    for ours, mean, theirs in (
        (scores.iou, scores.mean_iou, sklearn_metrics.jaccard_score),
        (scores.f1, scores.mean_f1, sklearn_metrics.f1_score),
    ):
        by_class = theirs(true, predicted, **kwargs)
        np.testing.assert_array_equal(np.isnan(ours), ~present)
        np.testing.assert_allclose(ours[present], by_class[present])
        np.testing.assert_allclose(mean, by_class[present].mean())
    np.testing.assert_allclose(
        scores.overall_accuracy, sklearn_metrics.accuracy_score(true, predicted)
    )


def test_the_potsdam_protocols_differ_by_clutter_alone():
    mask = np.array([[0, 1, 4, 5, 255]], np.uint8)
    classes = np.array([[0, 2, 4, 3, 1]], np.uint8)
    five = confusion_counts(mask, classes, POTSDAM_5, "a")
    six = confusion_counts(mask, classes, POTSDAM_6, "a")
    assert (five.sum(), six.sum()) == (3, 4)
    np.testing.assert_array_equal(six[:5, :5], five)
    assert six[5, 3] == 1
    assert score(five).overall_accuracy == pytest.approx(2 / 3)
    assert score(six).overall_accuracy == pytest.approx(2 / 4)


def test_counts_above_what_float32_holds():
    """Potsdam's test tiles hold 504 million pixels; a float32 sum stops at 2**24."""
    counts = np.array([[500_000_001, 3], [0, 4_000_000_001]], np.int64)
    scores = score(counts)
    assert scores.iou[0] == 500_000_001 / 500_000_004
    assert scores.overall_accuracy == 4_500_000_002 / 4_500_000_005


def test_metrics_leave_out_what_has_no_number():
    protocol = Protocol(("low vegetation", "tree", "car"), ((0, 0, 0),) * 3)
    scores = score(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    assert scores.as_metrics(protocol.classes) == pytest.approx(
        {
            **{"miou": (3 / 4 + 4 / 5) / 2, "mf1": (6 / 7 + 8 / 9) / 2, "oa": 7 / 8},
            **{"iou/low_vegetation": 3 / 4, "f1/low_vegetation": 6 / 7},
            **{"iou/tree": 4 / 5, "f1/tree": 8 / 9},
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(np.zeros((3, 3), np.int64)).as_metrics(protocol.classes) == {}


def read_classes(windows):
    """A model that finds the class written in the red band: one-hot logits of LoveDA."""
    return np.eye(len(loveda.CLASSES), dtype=np.float32)[windows[..., 0] % len(loveda.CLASSES)]


def labelled_tile(name, height, width):
    image = np.random.default_rng(height).integers(0, 7, (height, width, 3), np.uint8)
    return Tile(name, image, image[..., 0].copy())


def test_evaluation_of_tiles_of_all_sizes():
    tiles = [labelled_tile("a", 40, 33), labelled_tile("b", 5, 70), labelled_tile("c", 1, 1)]
    tiles[0].mask[:, :10] = 255
    tiles[1].mask[0, :3] = (tiles[1].mask[0, :3] + 1) % 7
    evaluation = evaluate(iter(tiles), read_classes, LOVEDA, 4, WINDOWS, examples=2)
    assert evaluation.counts.sum() == 40 * 23 + 5 * 70 + 1
    assert score(evaluation.counts).overall_accuracy == pytest.approx(1 - 3 / 1271)
    assert [example.name for example in evaluation.examples] == ["a", "b"]
    np.testing.assert_array_equal(evaluation.examples[1].classes, tiles[1].image[..., 0])


def test_large_examples_are_thinned_alike():
    tile = labelled_tile("a", 30, 1100)
    (example,) = evaluate([tile], read_classes, LOVEDA, 8, WINDOWS).examples
    assert example.image.shape == (10, 367, 3)
    np.testing.assert_array_equal(example.classes, example.mask)
    np.testing.assert_array_equal(example.mask, tile.mask[::3, ::3])


@pytest.mark.parametrize(
    "mask, message",
    [
        (None, "bad.tif: has no mask"),
        (np.zeros((9, 20), np.uint8), "bad.tif: mask of 20 x 9 pixels, but its image has 30 x 20"),
        (np.full((20, 30), 7, np.uint8), "bad.tif: mask value 7, but the 7 classes are 0 to 6"),
    ],
)
def test_bad_masks_name_their_file(mask, message):
    tiles = [labelled_tile("good.tif", 20, 30), Tile("bad.tif", np.zeros((20, 30, 3)), mask)]
    with pytest.raises(UserError, match=message):
        evaluate(tiles, lambda w: read_classes(w.astype(np.uint8)), LOVEDA, 4, WINDOWS)


def test_all_ignored_has_no_scores():
    tile = Tile("a", np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 255, np.uint8))
    evaluation = evaluate([tile], read_classes, LOVEDA, 4, WINDOWS)
    assert evaluation.counts.sum() == 0
    assert score(evaluation.counts).as_metrics(LOVEDA.classes) == {}


def test_submission_holds_indices_from_zero(tmp_path):
    path = tmp_path / "submission.zip"
    maps = {f"Test/Rural/{4191 + i}": labelled_tile("", 30, 20 + i).mask for i in range(3)}
    write_submission(path, maps.items())
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["4191.png", "4192.png", "4193.png"]
        for name, expected in maps.items():
            image = Image.open(io.BytesIO(archive.read(f"{name.split('/')[-1]}.png")))
            assert image.mode == "L"
            np.testing.assert_array_equal(np.array(image), expected)
    first = path.read_bytes()
    write_submission(path, maps.items())
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    "maps, message",
    [
        ([("a.png", np.full((4, 4), 7, np.uint8))], "a.png: value 7, .* 0 to 6"),
        ([("Rural/1", np.zeros((4, 4), np.uint8))] + [("Urban/1.png", None)], "second 1.png"),
        ([], "no images to submit"),
    ],
)
def test_a_refused_submission_leaves_the_old_one(tmp_path, maps, message):
    path = tmp_path / "submission.zip"
    path.write_text("old")
    with pytest.raises(UserError, match=message):
        write_submission(path, maps)
    assert [file.name for file in tmp_path.iterdir()] == ["submission.zip"]
    assert path.read_text() == "old"


def test_overlay_by_hand():
    image = np.full((1, 3, 3), 100, np.uint8)
    classes = np.array([[1, 0, 255]], np.uint8)
    pixels = overlay(image, classes, ((0, 0, 0), (200, 0, 100)))
    np.testing.assert_array_equal(pixels, [[[150, 50, 100], [50, 50, 50], [100, 100, 100]]])


def test_pictures_of_real_tiles(tmp_path):
    if not REAL.exists():
        pytest.skip("the real LoveDA samples are not beside this checkout")
    tiles = []
    for number in "01":
        image = np.array(Image.open(REAL / f"images_png/{number}.png").convert("RGB"))
        values = np.array(Image.open(REAL / f"masks_png/{number}.png"))
        tiles.append(Tile(number, image, loveda.decode_mask(values, number)))
    evaluation = evaluate(tiles, brightness_classes, LOVEDA, 6, Windows(512, 384))
    assert evaluation.counts.sum() == sum((tile.mask != 255).sum() for tile in tiles)
    draw_examples(tmp_path / "examples.png", evaluation.examples, LOVEDA)
    draw_confusion(tmp_path / "confusion.png", evaluation.counts, LOVEDA)
    for name in ("examples", "confusion"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert np.array(picture).std() > 10


def brightness_classes(windows):
    """Dark pixels are forest, bright ones buildings, the rest background."""
    grey = windows.mean(-1, dtype=np.float32)
    logits = np.zeros((*grey.shape, len(loveda.CLASSES)), np.float32)
    logits[..., loveda.CLASSES.index("forest")] = 90 - grey
    logits[..., loveda.CLASSES.index("building")] = grey - 150
    return logits
