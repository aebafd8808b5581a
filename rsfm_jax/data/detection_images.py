"""Whole images with their objects, one after the other: what a detector is evaluated on.

`open_labelled_images` takes DOTA and DIOR-R as downloaded, prepared sets and drawn scenes.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from rsfm_jax.data.decode import BadImage, decode_rgb
from rsfm_jax.data.detection import check_classes
from rsfm_jax.data.downloads import Entry, dior_entries, dior_list, dota_entries
from rsfm_jax.data.elements import read_example
from rsfm_jax.data.formats import Objects, dior, dota
from rsfm_jax.data.sources import Source, open_source
from rsfm_jax.errors import UserError

log = logging.getLogger(__name__)

MAX_PIXELS = 2**30  # of an image: those of DOTA v2.0 reach 29,200 x 27,620


class LabelledImage(NamedTuple):
    """One image: its name (one word), uint8 [H, W, 3], and its objects; None if not labelled."""

    name: str
    pixels: np.ndarray
    objects: Objects | None


class LabelledImages(Protocol):
    """Images that can be gone through any number of times; one is in memory at a time."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[LabelledImage]:
        """Raises UserError, naming the file or record, at an image that cannot be read."""


def open_labelled_images(source: str, split: str, classes: tuple[str, ...]) -> LabelledImages:
    """Opens the images of one split; told apart by what lies in the folder.

    Args:
      source: a folder with DOTA's `SPLIT/images` and `SPLIT/labelTxt*` (or `images`, which is the
        split `train`), one with DIOR-R's `ImageSets/Main`, a prepared TFDS directory with objects,
        or `synthetic[:N]`.
      split: its name. DOTA's test splits may be without labels.
      classes: the names that the objects' labels shall index, those of the source in its order.
        DOTA's labels, which hold names, are taken of the version that has these classes; own
        data in its layout may have any.

    Raises:
      UserError: nothing of that kind there, no such split, other classes, an image without its
        label file or with a name of several words, or labels that are not in order, by file and
        line.
    """
    folder = Path(source).expanduser()
    if (folder / "ImageSets" / "Main").is_dir():
        return _open_dior(folder, split, classes)
    if (folder / "images").is_dir() or any(folder.glob("*/images")):
        return _open_dota(folder, split, classes)
    found = open_source(source, split)
    check_classes(found.object_names, classes, source)
    images = _FromSource(found)
    if _is_patch(next(iter(images)).name):
        log.warning(
            "%s holds patches of images: their scores are not those of the images that they were "
            "cut from; name the folder of the download for those",
            source,
        )
    return images


class _FromFiles:
    """Images from files; their labels are read before any image, so that errors come early."""

    def __init__(self, entries: list[Entry], objects: Sequence[Objects | None]):
        self._entries, self._objects = entries, objects

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[LabelledImage]:
        for entry, objects in zip(self._entries, self._objects, strict=True):
            try:
                pixels = decode_rgb(entry.image.read_bytes(), MAX_PIXELS)
            except (OSError, BadImage) as error:
                raise UserError(f"{entry.image}: {error}") from error
            yield LabelledImage(entry.name, pixels, objects)


class _FromSource:
    """Every example of a `Source` with objects as an image."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[LabelledImage]:
        for index in range(len(self)):
            try:
                example = read_example(self._source, index)
            except (OSError, BadImage) as error:
                raise UserError(f"{self._source.name(index)}: {error}") from error
            name = example.get("image_id", b"").decode() or f"{index:06d}"
            objects = Objects(*(example[field] for field in Objects._fields))
            yield LabelledImage(name, example["image"], objects)


def _is_patch(name: str) -> bool:
    try:
        dota.parse_patch_id(name)
    except ValueError:
        return False
    return True


def _open_dior(folder: Path, split: str, classes: tuple[str, ...]) -> LabelledImages:
    check_classes(dior.CLASSES, classes, str(folder))
    listed = dior_list(folder, split)
    if not listed.exists():
        raise _no_split(folder, split, [file.stem for file in listed.parent.glob("*.txt")])
    entries = _some(dior_entries(folder, split), listed)
    objects = [
        dior.parse_labels(_read(entry.labels), str(entry.labels))
        for entry in entries
        if entry.labels is not None  # never for DIOR-R: every image has the name of a file
    ]
    return _FromFiles(entries, objects)


def _open_dota(folder: Path, split: str, classes: tuple[str, ...]) -> LabelledImages:
    versions = (version for version, names in dota.CLASSES.items() if set(names) == set(classes))
    version = next(versions, "2.0")
    whole = (folder / "images").is_dir()
    splits = ["train"] if whole else [path.parent.name for path in folder.glob("*/images")]
    if split not in splits:
        raise _no_split(folder, split, splits)
    part = "" if whole else split
    entries = _some(dota_entries([folder], part, version), folder / part / "images")
    if split.startswith("test") and not any(entry.labels for entry in entries):
        return _FromFiles(entries, [None] * len(entries))
    return _FromFiles(entries, [_dota_objects(entry, version, classes) for entry in entries])


def _dota_objects(entry: Entry, version: str, classes: tuple[str, ...]) -> Objects:
    if entry.labels is None:
        raise UserError(
            f"{entry.image}: no label file {entry.name}.txt of v{version} in labelTxt-v{version} "
            "or labelTxt beside images"
        )
    text = _read(entry.labels).decode("utf-8", "replace")
    return dota.parse_labels(text, str(entry.labels), classes)


def _no_split(folder: Path, split: str, splits: list[str]) -> UserError:
    return UserError(f"{folder} has no split {split!r}, it has: {', '.join(sorted(splits))}")


def _some(entries: list[Entry], where: Path) -> list[Entry]:
    if not entries:
        raise UserError(f"{where}: no images")
    for entry in entries:
        dota.check_image_name(entry.name, str(entry.image))
    return entries


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
