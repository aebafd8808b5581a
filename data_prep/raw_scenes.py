"""Writes drawn scenes in the raw layouts of the published data sets, small but complete.

So every reader runs end to end without a download. Each data set has scenes of its own.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from data_prep.images import encode_jpeg, encode_png
from rsfm_jax.data.formats import potsdam
from rsfm_jax.data.synthetic import COVER, SCENE_KINDS, Scene, draw_scene
from rsfm_jax.errors import UserError

_DIOR_NAMES = {
    **{"plane": "airplane", "baseball-diamond": "baseballfield", "bridge": "bridge"},
    **{"ground-track-field": "groundtrackfield", "small-vehicle": "vehicle", "ship": "ship"},
    **{"large-vehicle": "vehicle", "tennis-court": "tenniscourt", "harbor": "harbor"},
    **{"basketball-court": "basketballcourt", "storage-tank": "storagetank"},
}
# By land cover: the Potsdam class, and the LoveDA value as in its files (1 = background).
_POTSDAM = {
    **{"road": 0, "paved": 0, "building": 1, "grass": 2, "agriculture": 2, "tree": 3, "car": 4},
    **{"other": 5, "water": 5, "barren": 5},
}
_LOVEDA = {
    **{"other": 1, "paved": 1, "grass": 1, "building": 2, "road": 3, "car": 3, "water": 4},
    **{"barren": 5, "tree": 6, "agriculture": 7},
}
_DOMAIN_KINDS = {
    "Urban": ("residential", "parking", "industrial", "sports"),
    "Rural": ("farmland", "forest", "harbor", "airport"),
}


def write_raw(folder: Path) -> None:
    """Writes FOLDER/NAME for every data set; folders that exist are left as they are."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (name, write) in enumerate(_WRITERS.items()):
            partial = folder / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            if not (folder / name).exists():
                write(partial, _scenes(number))
                os.replace(partial, folder / name)
    except OSError as error:
        raise UserError(f"--source={folder}: cannot write raw scenes: {error}") from error


def _scenes(stream: int) -> Callable[..., Scene]:
    """Gives a function that draws the next scene of a stream that no other data set shares."""
    seeds = iter(range((stream + 16) << 32, (stream + 17) << 32))

    def draw(size: int, kind: str | None = None) -> Scene:
        return draw_scene(next(seeds), size, kind)

    return draw


def _dota(root: Path, draw: Callable[..., Scene]) -> None:
    numbers = iter(range(100))
    for split, sizes in (
        ("train", (700, 1024, 1300, 1900)),
        ("val", (1100, 900)),
        ("test", (1200,)),
    ):
        for size in sizes:
            scene, name = draw(size), f"P{next(numbers):04d}"
            _save(root / split / "images" / f"{name}.png", encode_png(scene.image))
            lines = ["imagesource:Drawn", "gsd:0.5" if size % 200 else "gsd:null"]
            for polygon, label in zip(scene.polygons, scene.classes, strict=True):
                corners = " ".join(f"{value:.1f}" for value in polygon.ravel())
                lines.append(f"{corners} {label} {int(cv2.contourArea(polygon) < 400)}")
            if split != "test":
                labels = root / split / "labelTxt-v2.0" / "OBB" / f"{name}.txt"
                _save(labels, "\n".join([*lines, ""]).encode())


def _dior_r(root: Path, draw: Callable[..., Scene]) -> None:
    number = 0
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        names = []
        for _ in range(count):
            number += 1
            names.append(f"{number:05d}")
            scene = draw(800)
            place = "JPEGImages-test" if split == "test" else "JPEGImages-trainval"
            _save(root / place / f"{names[-1]}.jpg", encode_jpeg(scene.image))
            xml = root / "Annotations" / "Oriented Bounding Boxes" / f"{names[-1]}.xml"
            _save(xml, _voc(scene, names[-1]))
        _save(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join([*names, ""]).encode())


def _voc(scene: Scene, name: str) -> bytes:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{name}.jpg"
    for polygon, label in zip(np.rint(scene.polygons), scene.classes, strict=True):
        if label not in _DIOR_NAMES:
            continue
        element = ElementTree.SubElement(root, "object")
        fields = {"type": "robndbox", "name": _DIOR_NAMES[label], "difficult": "0"}
        for key, value in fields.items():
            ElementTree.SubElement(element, key).text = value
        box = ElementTree.SubElement(element, "robndbox")
        corners = ("left_top", "right_top", "right_bottom", "left_bottom")
        for corner, point in zip(corners, polygon, strict=True):
            for axis, value in zip("xy", point, strict=True):
                ElementTree.SubElement(box, f"{axis}_{corner}").text = f"{value:.0f}"
    ElementTree.indent(root)
    return ElementTree.tostring(root, "utf-8", xml_declaration=True)


def _potsdam(root: Path, draw: Callable[..., Scene]) -> None:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))  # the release eroded by 3 pixels
    for tile in potsdam.TRAIN_TILES + potsdam.TEST_TILES:
        scene = draw(600, "residential")
        classes = _recode(scene.mask, _POTSDAM)
        colours = np.array(potsdam.COLOURS, np.uint8)[classes]
        edges = cv2.erode(classes, disc) != cv2.dilate(classes, disc)
        eroded = np.where(edges[..., None], np.uint8(0), colours)
        plants = np.isin(classes, (2, 3)) * 70
        infrared = np.clip(scene.image.mean(-1) + plants, 0, 255).astype(np.uint8)
        irrg = np.dstack([infrared, scene.image[..., :2]])
        pictures = {
            f"2_Ortho_RGB/top_potsdam_{tile}_RGB.tif": scene.image,
            f"3_Ortho_IRRG/top_potsdam_{tile}_IRRG.tif": irrg,
            f"5_Labels_all/top_potsdam_{tile}_label.tif": colours,
            f"5_Labels_all_noBoundary/top_potsdam_{tile}_label_noBoundary.tif": eroded,
        }
        for name, picture in pictures.items():
            _save(root / name, cv2.imencode(".tif", picture[..., ::-1])[1].tobytes())


def _loveda(root: Path, draw: Callable[..., Scene]) -> None:
    number = 0
    for split in ("Train", "Val", "Test"):
        for domain, kinds in _DOMAIN_KINDS.items():
            for kind in kinds[:2] if split == "Train" else kinds[2:3]:
                scene = draw(1024, kind)
                values = _recode(scene.mask, _LOVEDA)
                values[:, :16] = 0  # no data
                folder = root / split / domain
                _save(folder / "images_png" / f"{number}.png", encode_png(scene.image))
                if split != "Test":
                    _save(folder / "masks_png" / f"{number}.png", encode_png(values))
                number += 1


def _millionaid(root: Path, draw: Callable[..., Scene]) -> None:
    number = 0
    groups = {"farmland": "agriculture_land", "forest": "woodland"}
    for kind in SCENE_KINDS:
        for size in (256, 400, 600, 256):
            place = root / "train" / groups.get(kind, "built_land") / f"{kind}_area" / kind
            _save(place / f"P{number:07d}.jpg", encode_jpeg(draw(size, kind).image))
            number += 1
    for size in (200, 512, 1400, *[300] * 29):
        _save(root / "test" / f"P{number:07d}.jpg", encode_jpeg(draw(size).image))
        number += 1


def _image_folder(root: Path, draw: Callable[..., Scene]) -> None:
    for split, count in (("train", 6), ("val", 2)):
        for kind in SCENE_KINDS:
            for number in range(count):
                picture = encode_jpeg(draw(256, kind).image)
                _save(root / split / kind / f"{number:03d}.jpg", picture)


def _recode(cover: np.ndarray, values: dict[str, int]) -> np.ndarray:
    return np.array([values[name] for name in COVER], np.uint8)[cover]


def _save(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


_WRITERS: dict[str, Callable[[Path, Callable[..., Scene]], None]] = {
    "millionaid": _millionaid,
    "dota": _dota,
    "dior_r": _dior_r,
    "potsdam": _potsdam,
    "loveda": _loveda,
    "image_folder": _image_folder,
}
