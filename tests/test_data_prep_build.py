"""Every builder from raw files to what TFDS and Grain read, on drawn and on real data."""

import hashlib
import json

import cv2
import grain
import numpy as np
import pytest
import shapely
import tensorflow_datasets as tfds

from data_prep.__main__ import main
from data_prep.datasets.dota import PADDING
from rsfm_jax.data.decode import decode_rgb
from rsfm_jax.data.detection_images import open_labelled_images
from rsfm_jax.data.formats import dior, dota, loveda, potsdam
from rsfm_jax.data.formats.windows import resized_window
from rsfm_jax.data.sources import open_source
from rsfm_jax.data.synthetic import SCENE_KINDS, draw_scene
from tests.data_prep_raw import build, raw_copy, raw_root, read


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def raw_dota(image_id, split="train"):
    folder = raw_root() / "dota" / split
    labels = (folder / "labelTxt-v2.0" / "OBB" / f"{image_id}.txt").read_text()
    pixels = decode_rgb((folder / "images" / f"{image_id}.png").read_bytes())
    return pixels, dota.parse_labels(labels, image_id, dota.CLASSES["2.0"])


def test_synthetic_holds_the_scenes_that_the_training_source_draws(tmp_path):
    folder = build("synthetic", "", tmp_path, "--scenes=16", "--size=128")
    examples = {example["image_id"].decode(): example for example in read(folder, "train")}
    assert len(examples) == 16
    example, scene = examples["train/3"], draw_scene(3, 128, SCENE_KINDS[3])
    assert example["label"] == 3
    assert np.array_equal(example["polygons"], scene.polygons)
    assert np.array_equal(example["mask"][..., 0], scene.mask)
    assert np.abs(example["image"].astype(int) - scene.image).mean() < 4  # JPEG


def test_grain_and_the_training_source_read_it_without_tensorflow(tmp_path):
    import sys

    folder = build("image_folder", raw_root() / "image_folder", tmp_path)
    source = open_source(str(folder), "train")
    assert source.class_names == tuple(sorted(SCENE_KINDS))
    assert np.bincount(source.labels).tolist() == [6] * len(SCENE_KINDS)
    dataset = grain.MapDataset.source(source).shuffle(seed=1)
    dataset = dataset.map(lambda example: decode_rgb(example["image"])).batch(16)
    batches = list(dataset.to_iter_dataset())
    assert [batch.shape for batch in batches] == [(16, 256, 256, 3)] * 3
    assert "tensorflow" not in sys.modules


def test_dota_patches_hold_the_objects_that_shapely_finds(tmp_path):
    folder = build("dota", raw_root() / "dota", tmp_path, "--scales=multi")
    builder = tfds.builder_from_directory(folder)
    assert builder.info.features["labels"].feature.names == list(dota.CLASSES["2.0"])
    examples = builder.as_data_source("train+val")
    seen = set()
    raw = {}
    for example in examples:
        image_id, scale, x, y = dota.parse_patch_id(example["image_id"].decode())
        seen.add((image_id, scale))
        if image_id not in raw:
            split = "train" if image_id < "P0004" else "val"
            raw[image_id] = raw_dota(image_id, split)
        pixels, objects = raw[image_id]
        assert example["image"].shape == (1024, 1024, 3)
        whole = shapely.polygons(objects.polygons.astype(float) * scale)
        inside = shapely.area(shapely.intersection(whole, shapely.box(x, y, x + 1024, y + 1024)))
        share = inside / shapely.area(whole)
        assert not (np.abs(share - 0.7) < 1e-9).any()
        kept = share >= 0.7
        assert np.array_equal(example["labels"], objects.labels[kept])
        assert np.array_equal(example["difficult"], objects.difficult[kept])
        assert np.array_equal(example["truncated"], share[kept] < 1 - 1e-6)
        shifted = objects.polygons[kept] * scale - [x, y]
        assert np.allclose(example["polygons"], shifted, atol=1e-3)
        if scale == 1:
            crop = pixels[y : y + 1024, x : x + 1024]
            stored = example["image"][: crop.shape[0], : crop.shape[1]]
            assert np.abs(stored.astype(int) - crop).mean() < 2
    assert seen == {(f"P000{number}", scale) for number in range(6) for scale in (0.5, 1, 1.5)}
    assert manifest(folder)["splits"]["train"]["objects"] == sum(
        len(raw[f"P000{number}"][1].labels) for number in range(4)
    )
    # The test labels are not public.
    assert {len(example["labels"]) for example in builder.as_data_source("test")} == {0}


def write_dota(folder, labels):
    for part in ("images", "labelTxt"):
        (folder / part).mkdir(parents=True)
    for name, rows in labels.items():
        (folder / "labelTxt" / f"{name}.txt").write_text(rows)
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.full((64, 1500, 3), 90, np.uint8))


def test_a_split_without_any_object_is_named(tmp_path):
    write_dota(tmp_path / "raw/train", {"a": "10 10 60 10 60 40 10 40 plane 0"})
    write_dota(tmp_path / "raw/val", {"b": "", "c": ""})
    folder = build("dota", tmp_path / "raw", tmp_path)
    assert list(manifest(folder)["splits"]) == ["train"]
    assert manifest(folder)["bad"] == ["split val: no example in its 2 images"]


def test_own_classes_and_patches_without_objects(tmp_path):
    raw = tmp_path / "raw"
    write_dota(raw, {"wide": "10 10 60 10 60 40 10 40 pylon 0", "bare": ""})
    dropped = build("dota", raw, tmp_path / "drop", "--classes=windmill,pylon")
    kept = build("dota", raw, tmp_path / "keep", "--classes=windmill,pylon", "--empty=keep")
    (only,) = read(dropped, "train")
    assert only["image_id"] == b"wide__1__0___0" and list(only["labels"]) == [1]
    names = {f"{name}__1__{x}___0".encode() for name in ("wide", "bare") for x in (0, 476)}
    assert {example["image_id"] for example in read(kept, "train")} == names
    assert manifest(dropped)["splits"]["train"]["images"] == 2
    assert open_source(str(dropped)).object_names == ("windmill", "pylon")
    images = open_labelled_images(str(raw), "train", ("windmill", "pylon"))
    assert [image.objects.labels.tolist() for image in images] == [[], [1]]
    arguments = ["build", "dota", f"--source={raw}", f"--data_dir={tmp_path}", "--classes=a,a"]
    assert main(arguments) == 2


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_window_equals_crop_of_the_whole_resized_image(scale):
    pixels = draw_scene(5, 1900).image[:1500, :1806]
    height, width = int(1500 * scale), int(1806 * scale)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    whole = cv2.resize(pixels, (width, height), interpolation=how)
    for x, y in ((0, 0), (max(0, width - 1024), 333), (200, max(0, height - 1024))):
        window = resized_window(pixels, scale, x, y, 1024, PADDING)
        truth = np.full((1024, 1024, 3), PADDING, np.uint8)
        crop = whole[y : y + 1024, x : x + 1024]
        truth[: crop.shape[0], : crop.shape[1]] = crop
        assert np.abs(window.astype(int) - truth).mean() < 0.6


def test_dota_v2_images_of_both_downloads_are_merged(tmp_path):
    new = raw_copy("dota", tmp_path)
    old = tmp_path / "v1"
    for split, moved in (("train", ("P0000", "P0001")), ("val", ("P0004",))):
        (old / split / "images").mkdir(parents=True)
        for name in moved:
            image = new / split / "images" / f"{name}.png"
            image.rename(old / split / "images" / image.name)
    folder = build("dota", new, tmp_path / "out", f"--v1_source={old}")
    alone = build("dota", raw_root() / "dota", tmp_path / "alone")
    records = [[r[2] for r in json.loads(path.read_text())["records"]]
               for built in (folder, alone)
               for path in [built / "manifest" / "train-00000.json"]]  # fmt: skip
    assert records[0] == records[1]


def test_dior_keeps_files_and_corners(tmp_path):
    source = raw_root() / "dior_r"
    folder = build("dior_r", source, tmp_path)
    stored = tfds.builder_from_directory(folder).as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert len(stored) == 8
    for example in stored:
        name = example["image_id"].decode()
        file = source / "JPEGImages-trainval" / f"{name}.jpg"
        assert example["image"] == file.read_bytes()
        xml = source / "Annotations" / "Oriented Bounding Boxes" / f"{name}.xml"
        truth = dior.parse_labels(xml.read_bytes(), name)
        assert np.array_equal(example["polygons"], truth.polygons)
        assert np.array_equal(example["labels"], truth.labels)


@pytest.mark.parametrize("bands, classes", [("RGB", 5), ("IRRG", 6)])
def test_potsdam_crops_equal_the_tiles(tmp_path, bands, classes):
    source = raw_root() / "potsdam"
    options = (f"--bands={bands}", "--labels=full", f"--classes={classes}")
    folder = build("potsdam", source, tmp_path, *options)
    assert {k: v["images"] for k, v in manifest(folder)["splits"].items()} == {
        "train": 24,
        "test": 14,
    }
    examples = {example["image_id"].decode(): example for example in read(folder, "train")}
    assert len(examples) == 24 * 4
    pixels = decode_rgb(next(source.glob(f"*/top_potsdam_7_12_{bands}.tif")).read_bytes())
    colours = decode_rgb((source / "5_Labels_all/top_potsdam_7_12_label.tif").read_bytes())
    crop = examples["7_12__88___0"]
    assert np.array_equal(crop["image"], pixels[:512, 88:])
    mask = crop["mask"][..., 0]
    for label, colour in enumerate(potsdam.COLOURS):
        expected = (colours[:512, 88:] == colour).all(-1)
        assert np.array_equal(mask == (label if label < classes else 255), expected)
    assert (mask == 255).any() == (classes == 5)


def test_loveda_shifts_values_and_ignores_the_test_split(tmp_path):
    source = raw_root() / "loveda"
    folder = build("loveda", source, tmp_path)
    for example in read(folder, "train"):
        split, domain, number = example["image_id"].decode().split("/")
        assert loveda.DOMAINS[example["domain"]] == domain
        path = source / split / domain / "masks_png" / f"{number}.png"
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(int)
        assert np.array_equal(example["mask"][..., 0], np.where(values == 0, 255, values - 1))
    assert all((example["mask"] == 255).all() for example in read(folder, "test"))


def test_millionaid_joins_both_parts_once_and_holds_some_out(tmp_path):
    source = raw_copy("millionaid", tmp_path)
    labelled = next((source / "train").rglob("*.jpg"))
    copy = source / "test" / "P9999999.jpg"
    copy.write_bytes(labelled.read_bytes())
    grey = cv2.imread(str(labelled), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(source / "test" / "P9999998.png"), grey)
    folder = build("millionaid", source, tmp_path / "out", "--holdout=0.3", "--short_side=200")
    assert manifest(folder)["duplicates"] == [
        ["test/P9999999.jpg", labelled.relative_to(source).as_posix()]
    ]
    assert manifest(folder)["splits"]["train"]["labelled"] < 32
    splits = {split: read(folder, split) for split in ("train", "val")}
    ids = {split: {e["image_id"].decode() for e in examples} for split, examples in splits.items()}
    files = {split: {name.split("__")[0] for name in names} for split, names in ids.items()}
    assert not files["train"] & files["val"] and len(files["train"] | files["val"]) == 65
    assert 8 <= len(files["val"]) <= 32  # three in ten of 65, drawn
    labels = {split: [e["label"] for e in examples] for split, examples in splits.items()}
    every = labels["train"] + labels["val"]
    assert np.bincount([label for label in every if label >= 0]).tolist() == [4] * 8
    assert every.count(-1) == len(every) - 32
    sides = {min(e["image"].shape[:2]) for e in splits["train"] + splits["val"]}
    assert sides == {200}  # 200 as it is, larger ones shrunk, none enlarged
    assert (
        sum(name.startswith("test/P0000034.jpg__") for names in ids.values() for name in names) == 4
    )


def test_image_folder_of_real_scenes(real_data, tmp_path):
    source = real_data / "scenes" / "rsscn7"
    folder = build("image_folder", source, tmp_path, "--short_side=256")
    examples = read(folder, "train")
    assert len(examples) == 196
    assert {example["image"].shape for example in examples} == {(256, 256, 3)}
    names = tfds.builder_from_directory(folder).info.features["label"].names
    assert all(e["image_id"].decode().startswith(names[e["label"]]) for e in examples)


def test_dota_real_images(real_data, tmp_path):
    folder = build("dota", real_data / "dota", tmp_path, "--version=1.0")
    ids = sorted(example["image_id"].decode() for example in read(folder, "train"))
    assert ids == [
        *(f"P0706__1__{x}___{y}" for x in (0, 87) for y in (0, 158)),  # 1111 x 1182 pixels
        "P1888__1__0___0",  # 712 x 557
    ]
    assert manifest(folder)["splits"]["train"]["objects"] == 600


def test_potsdam_real_crop(real_data, tmp_path):
    """The only real crop has mmsegmentation's class indices; coloured, it is a tile again."""
    (labels,) = (real_data / "potsdam" / "ann_dir").glob("*.png")
    (image,) = (real_data / "potsdam" / "img_dir").glob("*.png")
    classes = cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)
    colours = np.array([potsdam.BOUNDARY, *potsdam.COLOURS], np.uint8)[classes]
    raw = {
        "2_Ortho_RGB/top_potsdam_2_10_RGB.tif": cv2.imread(str(image)),
        "5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif": colours[..., ::-1],
    }
    for name, picture in raw.items():
        (tmp_path / name).parent.mkdir()
        cv2.imwrite(str(tmp_path / name), picture)
    folder = build("potsdam", tmp_path, tmp_path / "out", "--on_bad=skip")
    assert len(manifest(folder)["bad"]) == 37  # the other tiles
    (example,) = read(folder, "train")
    assert np.array_equal(example["mask"][..., 0], np.where(classes == 0, 255, classes - 1))
    assert np.array_equal(example["image"], cv2.imread(str(image))[..., ::-1])


def test_same_bytes_for_any_number_of_workers_and_seen_once(tmp_path, capsys):
    source = raw_root() / "potsdam"
    one = build("potsdam", source, tmp_path / "one")
    arguments = ["build", "potsdam", f"--source={source}", f"--data_dir={tmp_path / 'two'}"]
    assert main([*arguments, "--workers=2"]) == 0
    two = tmp_path / "two" / one.relative_to(tmp_path / "one")

    def contents(folder):
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    assert contents(one) == contents(two)
    before = contents(two)
    assert main(arguments) == 0  # built already: nothing happens
    assert contents(two) == before
