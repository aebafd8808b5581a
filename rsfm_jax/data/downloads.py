"""Where the published downloads of DOTA and DIOR-R keep their images and labels."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rsfm_jax.data.formats import Report, stop
from rsfm_jax.data.sources import IMAGE_ENDINGS

DIOR_ANNOTATIONS = "Annotations/Oriented Bounding Boxes"
DIOR_IMAGES = ("JPEGImages-trainval", "JPEGImages-test", "JPEGImages")


class Entry(NamedTuple):
    """An image with the file of its labels; None where there is no such file."""

    name: str
    image: Path
    labels: Path | None


def dota_entries(
    roots: Sequence[Path], split: str, version: str, bad: Report = stop
) -> list[Entry]:
    """Images of one split by name, with the labels of one version; none where nothing lies.

    Args:
      roots: the folder of the download and, as v2.0 leaves them out, that of the v1.0 images. An
        image or label in both is taken from the first.
      split: train, val or test; "" for a folder that holds images/ itself.
      version: a key of `formats.dota.CLASSES`.
      bad: told of an image that differs from another in its ending alone, as labels go by the
        rest; the first of the two stays.
    """
    images: dict[str, Path] = {}
    for root in roots:
        images = _by_stem(_files(root / split / "images"), bad) | images
    labels: dict[str, Path] = {}
    for folder in _dota_label_folders(roots, split, version):
        labels = _by_stem(_files(folder, (".txt",)), bad) | labels
    return [Entry(name, images[name], labels.get(name)) for name in sorted(images)]


def _dota_label_folders(roots: Sequence[Path], split: str, version: str) -> Iterator[Path]:
    """The folders that the releases keep oriented labels of this version in, best first."""
    for root in roots:
        for folder in ("OBB", f"DOTA-v{version}_{split}", "labelTxt", ""):
            yield root / split / f"labelTxt-v{version}" / folder
    # Without a version in its name the folder is that of the download given first.
    yield roots[0] / split / "labelTxt"


def dior_list(root: Path, split: str) -> Path:
    """The file that lists the images of a split."""
    return root / "ImageSets/Main" / f"{split}.txt"


def dior_entries(root: Path, split: str, bad: Report = stop) -> list[Entry]:
    """Images of one split in the order of its list, which must exist.

    A listed image that is nowhere is reported and left out. Label files are not looked for.
    """
    images = {file.stem: file for place in DIOR_IMAGES for file in _files(root / place, (".jpg",))}
    listed = dior_list(root, split)
    entries = []
    for number, name in enumerate(listed.read_text("utf-8", "replace").split(), 1):
        if name in images:
            entries.append(Entry(name, images[name], root / DIOR_ANNOTATIONS / f"{name}.xml"))
        else:
            bad(f"{listed}:{number}: no image {name}.jpg in {', '.join(DIOR_IMAGES)}")
    return entries


def _by_stem(files: list[Path], bad: Report) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for file in files:
        first = named.setdefault(file.stem, file)
        if first != file:
            bad(f"{file}: differs from {first.name} in its ending alone; keep one of them")
    return named


def _files(folder: Path, endings: tuple[str, ...] = IMAGE_ENDINGS) -> list[Path]:
    """Files of one folder, in order of their names; none where the folder does not exist."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in files if file.name.lower().endswith(endings))
