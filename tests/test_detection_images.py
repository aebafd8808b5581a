"""The reader of whole labelled images: every layout, and what it refuses."""

import os

import numpy as np
import pytest
from PIL import Image

from rsfm_jax.data.detection_images import open_labelled_images
from rsfm_jax.data.formats import dior, dota
from rsfm_jax.errors import UserError
from tests.data_prep_raw import build, raw_copy, raw_root

V1, V15, V2 = dota.CLASSES.values()


def polygons(images):
    return {image.name: image.objects.polygons for image in images}


@pytest.mark.parametrize(
    "place",
    ["labelTxt-v2.0/OBB", "labelTxt-v2.0/DOTA-v2.0_train", "labelTxt-v2.0/labelTxt"]
    + ["labelTxt-v2.0", "labelTxt"],
)
def test_labels_of_dota_are_found_where_releases_keep_them(tmp_path, place):
    source = raw_copy("dota", tmp_path)
    published = source / "train/labelTxt-v2.0/OBB"
    truth = {file.stem: file.read_text() for file in sorted(published.iterdir())}
    os.renames(published, source / "set aside")
    os.renames(source / "set aside", source / "train" / place)
    images = list(open_labelled_images(str(source), "train", V2))
    assert [image.name for image in images] == list(truth)
    for image in images:
        lines = [line.split() for line in truth[image.name].splitlines() if ":" not in line]
        assert [V2[label] for label in image.objects.labels] == [line[8] for line in lines]
        corners = np.array([line[:8] for line in lines], np.float32).reshape(-1, 4, 2)
        np.testing.assert_array_equal(image.objects.polygons, corners)
        png = Image.open(source / "train/images" / f"{image.name}.png")
        np.testing.assert_array_equal(image.pixels, np.array(png.convert("RGB")))


def test_labels_are_of_the_version_that_has_the_classes(tmp_path):
    source = raw_copy("dota", tmp_path)
    (source / "train/labelTxt-v1.5").mkdir()
    for number in range(4):
        text = "0 0 4 0 4 4 0 4 container-crane 1\n" * number
        (source / f"train/labelTxt-v1.5/P000{number}.txt").write_text(text)
    images = list(open_labelled_images(str(source), "train", V15))
    assert [image.objects.labels.tolist() for image in images] == [[15] * n for n in range(4)]


def test_an_empty_image_of_a_prepared_set_has_no_labels_of_integers(tmp_path):
    source = raw_copy("dota", tmp_path)
    for file in (source / "train/labelTxt-v2.0/OBB").iterdir():
        file.write_text("")
    prepared = build("dota", source, tmp_path, "--empty=keep")
    images = list(open_labelled_images(str(prepared), "train", V2))
    assert images
    for image in images:
        assert image.objects.labels.dtype == np.int64 and image.objects.labels.shape == (0,)


def test_dior_and_prepared_sets_hold_the_same(tmp_path):
    source = raw_root() / "dior_r"
    prepared = build("dior_r", source, tmp_path)
    raw = polygons(open_labelled_images(str(source), "val", dior.CLASSES))
    listed = (source / "ImageSets/Main/val.txt").read_text().split()
    assert list(raw) == listed and sum(map(len, raw.values())) > 0
    stored = polygons(open_labelled_images(str(prepared), "val", dior.CLASSES))
    assert stored.keys() == raw.keys()
    for name in raw:
        np.testing.assert_array_equal(raw[name], stored[name])


def test_drawn_scenes():
    images = open_labelled_images("synthetic:3", "val", V2)
    assert len(images) == 3
    first, second = list(images), list(images)
    assert [image.name for image in first] == ["000000", "000001", "000002"]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.objects.polygons, b.objects.polygons)


def test_a_test_split_may_lack_labels(tmp_path):
    source = raw_copy("dota", tmp_path)
    (image,) = open_labelled_images(str(source), "test", V2)
    assert image.name == "P0006" and image.objects is None and image.pixels.any()


def test_images_are_read_one_after_the_other(tmp_path):
    source = raw_copy("dota", tmp_path)
    images = iter(open_labelled_images(str(source), "val", V2))
    (source / "val/images/P0005.png").write_bytes(b"")
    assert next(images).name == "P0004"
    with pytest.raises(UserError, match="P0005.png: the file is empty"):
        next(images)


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


LABEL = "val/labelTxt-v2.0/OBB/P0005.txt"
XML = "Annotations/Oriented Bounding Boxes/00013.xml"
BAD = {
    "label line": (
        "dota",
        LABEL,
        lambda p: p.write_text("gsd:1\n1 2 3 ship"),
        "txt:2: 4 col",
    ),
    "label file": ("dota", LABEL, os.unlink, "P0005.png: no label file P0005.txt of v2.0"),
    "image list": ("dior_r", "ImageSets/Main/test.txt", os.unlink, "no split 'test', it has: tr"),
    "image": ("dior_r", "JPEGImages-test/00013.jpg", os.unlink, ":1: no image 00013.jpg"),
    "XML": ("dior_r", XML, os.unlink, "00013.xml: No such file"),
    "corner": (
        "dior_r",
        XML,
        lambda p: replace(p, "left_top>", "left_top>x"),
        "object 1: rob",
    ),
    "image name": (
        *("dota", "val/images/P0005.png", lambda p: os.link(p, p.with_suffix(".bmp"))),
        "P0005.png: differs from P0005.bmp in its ending alone",
    ),
    "empty list": ("dior_r", "ImageSets/Main/test.txt", lambda p: p.write_text(""), "no images"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_named_before_any_image_is_read(tmp_path, what):
    name, file, spoil, message = BAD[what]
    source = raw_copy(name, tmp_path)
    spoil(source / file)
    split, classes = ("val", V2) if name == "dota" else ("test", dior.CLASSES)
    with pytest.raises(UserError, match=message) as error:
        open_labelled_images(str(source), split, classes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "split", "classes", "message"),
    [
        ("dota", "val", dior.CLASSES, r"txt:\d+: unknown class '.*', expected one of: airplane"),
        ("dota", "val", V2[1:], r"txt:\d+: unknown class 'plane', expected one of: baseball"),
        ("dota", "dev", V2, "no split 'dev', it has: test, train, val"),
        ("dior_r", "test", V2, "not these"),
        ("dior_r", "test", dior.CLASSES[::-1], "in another order"),
        ("loveda", "train", V2, "has no labelled objects"),
        ("nothing", "train", V2, "does not exist"),
        ("", "train", V2, "has no labelled objects|no images|no split"),
    ],
)
def test_other_sources_and_classes_are_refused(source, split, classes, message):
    with pytest.raises(UserError, match=message) as error:
        open_labelled_images(str(raw_root() / source), split, classes)
    assert "\n" not in str(error.value)


def test_drawn_scenes_of_other_classes_are_refused():
    with pytest.raises(UserError, match="18 classes"):
        open_labelled_images("synthetic:3", "val", V1)


@pytest.mark.parametrize(("folder", "images", "objects"), [("dota", 2, 600), ("dota_half", 3, 192)])
def test_real_dota(real_data, folder, images, objects):
    opened = list(open_labelled_images(str(real_data / folder), "train", V1))
    assert len(opened) == images
    assert sum(len(image.objects.labels) for image in opened) == objects
    # Labels are names in the files: another order of classes numbers the same objects otherwise.
    for image, other in zip(
        opened, open_labelled_images(str(real_data / folder), "train", V1[::-1]), strict=True
    ):
        assert np.array_equal(other.objects.labels, len(V1) - 1 - image.objects.labels)


def test_real_dior(real_data):
    (image,) = open_labelled_images(str(real_data / "dior_r"), "train", dior.CLASSES)
    assert image.name == "00001" and image.pixels.shape == (800, 800, 3)
    assert [dior.CLASSES[label] for label in image.objects.labels] == ["golffield"]
