"""Crops, colours and sources of segmentation: mask and image stay together, bad files are named."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rsfm_jax.data.decode import BadImage, decode_rgb
from rsfm_jax.data.formats import IGNORE
from rsfm_jax.data.photometric import change_colours, distort
from rsfm_jax.data.segmentation import crop_pair
from rsfm_jax.data.segmentation_sources import open_segmentation
from rsfm_jax.errors import UserError
from tests.data_prep_raw import build, raw_root

CROP = {
    "size": 32,
    "scale": (1.0, 1.0),
    "max_class_share": 0.75,
    "classes": 4,
    "ignored": (IGNORE,),
}


def cells(x, y):
    """Class of the pixel whose centre is at (x, y): squares of 8 pixels in four colours."""
    return (np.floor(x / 8) + 2 * np.floor(y / 8)).astype(int) % 4


def chart(height, width):
    """An image whose red and green say where a pixel is, and its mask."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    return {"image": image, "mask": cells(x + 0.5, y + 0.5).astype(np.uint8)}


def crop(example, seed=0, **settings):
    return crop_pair(example, np.random.default_rng(seed), **CROP | settings)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(9, 250),
    width=st.integers(9, 250),
    scale=st.floats(0.4, 3.0),
    seed=st.integers(0, 99),
)
def test_every_pixel_of_a_crop_keeps_its_own_label(height, width, scale, seed):
    result = crop(chart(height, width), seed, scale=(scale, scale))
    rows, columns = result["inside"]
    side = max(1, round(32 / scale))
    assert rows == round(min(side, height) * 32 / side)
    assert columns == round(min(side, width) * 32 / side)
    assert (result["mask"][rows:] == IGNORE).all() and (result["mask"][:, columns:] == IGNORE).all()
    assert not result["image"][rows:].any() and not result["image"][:, columns:].any()

    place = result["image"][:rows, :columns].astype(float) + 0.5  # in pixels of the whole image
    labels = result["mask"][:rows, :columns]
    # Colours are whole levels and averages, so a place is known to a pixel of both images.
    blur = 1.01 * max(1, side / 32)
    corners = [
        cells(place[..., 0] + dx, place[..., 1] + dy)
        for dx in (-blur, blur)
        for dy in (-blur, blur)
    ]
    clear = np.ptp(corners, axis=0) == 0
    np.testing.assert_array_equal(labels[clear], corners[0][clear])


def test_at_scale_1_pixels_are_copied():
    example = chart(200, 220)
    result = crop(example, 3)
    left, top, _ = result["image"][0, 0]
    part = slice(top, top + 32), slice(left, left + 32)
    np.testing.assert_array_equal(result["image"], example["image"][part])
    np.testing.assert_array_equal(result["mask"], example["mask"][part])


def test_crops_that_one_class_fills_are_drawn_again():
    """Of all crops 31 % hold both classes to a quarter or more; one in ten draws fails 2 %."""
    mask = np.repeat(np.uint8([0, 1]), 50)[None].repeat(40, 0)  # a border in the middle
    mask[:20] = IGNORE  # does not count, though it is half of every crop
    example = {"image": np.zeros((40, 100, 3), np.uint8), "mask": mask}

    def mixed(**settings):
        results = [crop(example, seed, **settings)["mask"] for seed in range(200)]
        shares = [np.bincount(x.ravel(), minlength=2)[:2] for x in results]
        return np.mean([max(x) < 0.75 * sum(x) for x in shares])

    assert mixed() > 0.9
    assert mixed(max_class_share=1.0) < 0.6
    alone = {"image": example["image"], "mask": np.full((40, 100), 2, np.uint8)}
    assert (crop(alone)["mask"][:, :32] == 2).all()  # there is no other


def test_ignored_values_become_255_and_others_are_refused():
    example = chart(40, 40)
    example["mask"][5] = 6
    assert set(np.unique(crop(example, ignored=(6, 255))["mask"])) <= {0, 1, 2, 3, 255}
    with pytest.raises(
        BadImage, match=r"mask value 6, but the 4 classes are 0 to 3 \(ignored: 255"
    ):
        crop(example)
    example["mask"] = example["mask"][:, 1:]
    with pytest.raises(BadImage, match="mask of 39 x 40 pixels, but its image has 40 x 40"):
        crop(example)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 1.5), st.floats(-36, 36), st.integers(0, 99))
def test_colours_change_as_in_opencvs_hsv_space(saturation, turn, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.float32)
    hsv = cv2.cvtColor(pixels / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + turn) % 360
    hsv[..., 1] = np.minimum(hsv[..., 1] * saturation, 1)
    expected = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    ours = change_colours(jnp.array(pixels), jnp.float32(saturation), jnp.float32(turn))
    np.testing.assert_allclose(ours, expected, atol=0.05)


def test_distortion_stays_in_its_ranges_and_changes_every_other_image():
    grey = np.full((512, 2, 2, 3), 100, np.uint8)
    levels = np.asarray(jax.jit(distort)(grey, jax.random.key(0)))
    assert (levels == levels[:, :1, :1, :1]).all()  # grey stays grey, all pixels change alike
    levels = levels[:, 0, 0, 0].astype(int)
    assert levels.min() >= 34 and levels.max() <= 198  # (100 +- 32) times 0.5 to 1.5
    assert 0.18 < np.mean(levels == 100) < 0.32  # neither brightness nor contrast: a quarter
    coloured = np.broadcast_to(np.uint8([130, 100, 80]), (512, 1, 1, 3))  # ends at no limit
    changed = np.asarray(distort(coloured, jax.random.key(1)))[:, 0]
    hues = cv2.cvtColor(np.float32([changed[:, 0], coloured[:, 0, 0]]) / 255, cv2.COLOR_RGB2HSV)
    turned = np.abs((hues[0, :, 0] - hues[1, :, 0] + 180) % 360 - 180)
    assert 30 < turned.max() < 40 and 0.4 < np.mean(turned < 3) < 0.7  # 3 degrees: whole levels


def write_pair(folder, stem, image, mask):
    for part, pixels in (("images", image), ("masks", mask)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        if pixels is not None:
            Image.fromarray(pixels).save(folder / part / f"{stem}.png")


def test_folders_of_pairs(tmp_path):
    example = chart(20, 30)
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            write_pair(tmp_path / "set" / split, f"a{number}", example["image"], example["mask"])
    assert len(open_segmentation(str(tmp_path / "set"), "train")) == 3
    source = open_segmentation(str(tmp_path / "set"), "train+val")
    assert len(source) == 5 and source.name(4).endswith("val/images/a1.png")
    np.testing.assert_array_equal(source[4]["mask"], example["mask"])
    np.testing.assert_array_equal(decode_rgb(source[4]["image"]), example["image"])

    with pytest.raises(UserError, match="no split 'test' with masks, it has: train, val"):
        open_segmentation(str(tmp_path / "set"), "test")
    write_pair(tmp_path / "set" / "val", "b", example["image"], None)
    with pytest.raises(UserError, match=r"val/images/b\.png: there is no mask of the same stem"):
        open_segmentation(str(tmp_path / "set"), "val")
    Image.fromarray(example["mask"]).save(tmp_path / "set/val/masks/a1.tif")
    with pytest.raises(UserError, match=r"a1\.tif: a1\.png has the same stem"):
        open_segmentation(str(tmp_path / "set"), "val")
    write_pair(tmp_path / "colour", "a", example["image"], example["image"])
    with pytest.raises(UserError, match="no split 'val' with masks, it has: train"):
        open_segmentation(str(tmp_path / "colour"), "val")
    with pytest.raises(BadImage, match="8-bit class indices"):
        open_segmentation(str(tmp_path / "colour"), "train")[0]
    write_pair(tmp_path / "plain", "a", example["image"], None)
    (tmp_path / "plain/masks").rmdir()
    with pytest.raises(UserError, match="has no masks: give folders images/ and masks/"):
        open_segmentation(str(tmp_path / "plain"), "train")


def test_raw_loveda_is_what_its_prepared_set_holds(tmp_path):
    raw = raw_root() / "loveda"
    prepared = build("loveda", raw, tmp_path / "out")
    source, records = open_segmentation(str(raw), "val"), open_segmentation(str(prepared), "val")
    assert source.cover_names == records.cover_names and len(source) == len(records) == 2
    stored = {records[i]["image_id"].decode(): records[i] for i in range(2)}
    for i in range(2):
        name = "/".join(source.name(i).split("/")[-4:]).replace("/images_png", "")
        record, example = stored[name.removesuffix(".png")], source[i]
        np.testing.assert_array_equal(decode_rgb(record["image"]), decode_rgb(example["image"]))
        mask = cv2.imdecode(np.frombuffer(record["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, example["mask"])
    test = open_segmentation(str(raw), "test")
    assert len(test) == 2 and "mask" not in test[0]
    with pytest.raises(UserError, match="splits train, val and test, not 'validation'"):
        open_segmentation(str(raw), "validation")


def test_raw_potsdam_tiles(tmp_path):
    source = open_segmentation(str(raw_root() / "potsdam"), "test")
    assert len(source) == 14 and len(open_segmentation(str(raw_root() / "potsdam"), "train")) == 24
    example = source[0]
    assert source.name(0).endswith("2_Ortho_RGB/top_potsdam_2_13_RGB.tif")
    labels = raw_root() / "potsdam/5_Labels_all_noBoundary/top_potsdam_2_13_label_noBoundary.tif"
    colours = decode_rgb(labels.read_bytes())
    values = example["mask"]
    assert (colours[values == 1] == (0, 0, 255)).all() and (values == 1).any()  # buildings
    assert (colours[values == 4] == (255, 255, 0)).all() and (values == 4).any()  # cars
    assert (colours[values == IGNORE] == 0).all() and (values == IGNORE).any()  # boundaries
    incomplete = tmp_path / "potsdam/2_Ortho_RGB"
    incomplete.mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"top_potsdam_2_13_RGB\.tif: missing; Potsdam's test has 14"
    ):
        open_segmentation(str(tmp_path / "potsdam"), "test")
