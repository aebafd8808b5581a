"""ISPRS Potsdam: 38 tiles with colour labels, cut into crops of 512 pixels."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds

from data_prep import features
from data_prep.dataset import Converted, Dataset, Index, Item, option
from data_prep.images import encode_png, read_rgb
from rsfm_jax.data.formats import Report, potsdam
from rsfm_jax.data.formats.windows import window_starts
from rsfm_jax.errors import UserError

CROP = 512  # pixels a side, without overlap but for the last one, as mmsegmentation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Potsdam(Dataset):
    """Potsdam: 24 training and 14 test tiles of 6000 x 6000 pixels at 5 cm."""

    bands: str = option("RGB", "of the orthophotos", choices=("RGB", "IRRG"))
    labels: str = option(
        "no_boundary", "with eroded boundaries, or full", choices=("no_boundary", "full")
    )
    classes: str = option("5", "5 ignores clutter, 6 counts it", choices=("5", "6"))

    name = "potsdam"
    items_per_shard = 1

    @property
    def config(self) -> str:
        return f"{self.bands}_{self.labels}_{self.classes}"

    @property
    def published(self) -> dict[str, int]:
        return {
            **{"train images": 24, "train examples": 3456},
            **{"test images": 14, "test examples": 2016},
        }

    def features(self) -> tfds.features.FeaturesDict:
        names = potsdam.CLASSES_6 if self.classes == "6" else potsdam.CLASSES_5
        return features.segmentation(names, ["Potsdam"])

    def index(self, hashes: Callable[[list[str]], list[str]], bad: Report) -> Index:
        tiles = {"train": potsdam.TRAIN_TILES, "test": potsdam.TEST_TILES}
        return Index({split: list(self._items(names, bad)) for split, names in tiles.items()})

    def convert(self, item: Item, bad: Report) -> Converted:
        image, labels = (self.path(file) for file in item.files)
        _, pixels = read_rgb(image)
        _, colours = read_rgb(labels)
        if colours.shape != pixels.shape:
            raise UserError(f"{labels}: {_size(colours)} pixels, but its image has {_size(pixels)}")
        mask = potsdam.decode_mask(colours, str(labels), int(self.classes), bad)
        return Converted(_crops(item.id, pixels, mask))

    def _items(self, tiles: tuple[str, ...], bad: Report) -> Iterator[Item]:
        for tile in tiles:
            files = potsdam.files(tile, self.bands, self.labels)
            missing = [self.path(file) for file in files if not self.path(file).exists()]
            if missing:
                bad(f"{missing[0]}: missing")
            else:
                yield Item(tile, files)


def _crops(tile: str, pixels: np.ndarray, mask: np.ndarray) -> Iterator[dict]:
    height, width = mask.shape
    for y in window_starts(height, CROP, CROP):
        for x in window_starts(width, CROP, CROP):
            window = (slice(y, y + CROP), slice(x, x + CROP))
            yield {
                "image": encode_png(pixels[window]),
                "image_id": f"{tile}__{x}___{y}",
                "mask": encode_png(mask[window]),
                "domain": 0,
            }


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"
