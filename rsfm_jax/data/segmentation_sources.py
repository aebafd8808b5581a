"""Images with masks: prepared sets, raw downloads of Potsdam and LoveDA, folders, drawn scenes.

The raw downloads give whole tiles, as their published scores want them.
"""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.data.decode import BadImage, decode_mask, decode_rgb
from rsfm_jax.data.formats import loveda, potsdam
from rsfm_jax.data.sources import IMAGE_ENDINGS, Source, open_source
from rsfm_jax.errors import UserError

# Mask file's bytes and its place, for messages -> class indices uint8 [H, W].
DecodeMask = Callable[[bytes, str], np.ndarray]


class Pair(NamedTuple):
    """An image file and that of its mask; None where there is none."""

    image: Path
    mask: Path | None


def open_segmentation(source: str, split: str) -> Source:
    """Opens a source of images with masks by its name in the configuration.

    Args:
      source: `synthetic` or `synthetic:N`, a TFDS directory with masks, the raw download of
        Potsdam or LoveDA (`python -m data_prep build NAME --help` knows their folders), or a
        folder of `images/` and `masks/` whose files have equal stems, which is the split
        `train`, or one such folder a split. Their masks are 8-bit grey or palette images of
        class indices.
      split: of what the source has. Several names joined by + are one, but for drawn scenes.

    Raises:
      UserError: nothing there, no masks, no such split, or a file without its counterpart.
    """
    folder = Path(source).expanduser()
    if (folder / potsdam.RGB).is_dir():
        return PairSource(folder, split, _potsdam_pairs, _potsdam, potsdam.CLASSES_6)
    if any(folder.glob("*/*/images_png")):
        return PairSource(folder, split, _loveda_pairs, _loveda, loveda.CLASSES)
    if any(folder.glob("masks")) or any(folder.glob("*/masks")):
        return PairSource(folder, split, _folder_pairs, _plain, ())
    opened = open_source(source, split)
    if not opened.cover_names:
        raise UserError(
            f"data source {source!r} has no masks: give folders images/ and masks/, a prepared "
            "segmentation set, the raw Potsdam or LoveDA folder, or the word synthetic"
        )
    return opened


class PairSource:
    """Image files with mask files; `cover_names` is empty where the masks carry no names."""

    class_names: tuple[str, ...] = ()
    object_names: tuple[str, ...] = ()
    labels: np.ndarray | None = None

    def __init__(
        self,
        folder: Path,
        split: str,
        list_pairs: Callable[[Path, str], Iterator[Pair]],
        decode: DecodeMask,
        cover_names: tuple[str, ...],
    ):
        self._folder, self._decode = folder, decode
        self._pairs = [pair for name in split.split("+") for pair in list_pairs(folder, name)]
        if not self._pairs:
            raise UserError(f"{folder}: no images of split {split!r}")
        self.cover_names = cover_names

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict:
        image, mask = self._pairs[index]
        example = {"image": image.read_bytes()}
        if mask is None:
            return example
        return example | {"mask": self._decode(mask.read_bytes(), str(mask))}

    def name(self, index: int) -> str:
        """The image file's path."""
        return str(self._pairs[index].image)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """A checksum of the images' paths below the folder."""
        files = (image.relative_to(self._folder).as_posix() for image, _ in self._pairs)
        return {"files": zlib.crc32("\n".join(files).encode())}


def _folder_pairs(folder: Path, split: str) -> Iterator[Pair]:
    whole = (folder / "masks").is_dir()
    splits = ["train"] if whole else [path.parent.name for path in folder.glob("*/masks")]
    if split not in splits:
        raise UserError(
            f"{folder} has no split {split!r} with masks, it has: {', '.join(sorted(splits))}"
        )
    root = folder if whole else folder / split
    images, masks = _by_stem(root / "images"), _by_stem(root / "masks")
    for stem in sorted(images.keys() ^ masks.keys()):
        alone = images.get(stem) or masks[stem]
        missing = "mask" if stem in images else "image"
        raise UserError(f"{alone}: there is no {missing} of the same stem; add it or remove this")
    yield from (Pair(images[stem], masks[stem]) for stem in sorted(images))


def _by_stem(folder: Path) -> dict[str, Path]:
    """The folder's image files; raises where two have one stem."""
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix.lower() in IMAGE_ENDINGS and not file.name.startswith("."):
            if file.stem in files:
                raise UserError(f"{file}: {files[file.stem].name} has the same stem")
            files[file.stem] = file
    return files


def _potsdam_pairs(folder: Path, split: str) -> Iterator[Pair]:
    """The published protocol's files: RGB, labels with eroded boundaries."""
    tiles = {"train": potsdam.TRAIN_TILES, "test": potsdam.TEST_TILES}
    if split not in tiles:
        raise UserError(f"{folder}: Potsdam has the splits train and test, not {split!r}")
    for tile in tiles[split]:
        files = [folder / file for file in potsdam.files(tile, "RGB", "no_boundary")]
        for file in files:
            if not file.exists():
                raise UserError(f"{file}: missing; Potsdam's {split} has {len(tiles[split])} tiles")
        yield Pair(*files)


def _loveda_pairs(folder: Path, split: str) -> Iterator[Pair]:
    if split not in loveda.SPLITS:
        raise UserError(f"{folder}: LoveDA has the splits train, val and test, not {split!r}")
    for domain in loveda.DOMAINS:
        images, masks = (folder / part for part in loveda.folders(split, domain))
        for image in sorted(images.glob("*.png")):
            mask = masks / image.name
            if not mask.exists() and split != "test":
                raise UserError(f"{mask}: missing; only LoveDA's test images have no masks")
            yield Pair(image, mask if mask.exists() else None)


def _plain(data: bytes, where: str) -> np.ndarray:
    return decode_mask(data)


def _potsdam(data: bytes, where: str) -> np.ndarray:
    return potsdam.decode_mask(decode_rgb(data), where, len(potsdam.CLASSES_6), _refuse)


def _loveda(data: bytes, where: str) -> np.ndarray:
    return loveda.decode_mask(decode_mask(data), where, _refuse)


def _refuse(message: str) -> None:
    raise BadImage(message)
