"""LoveDA: land cover of urban and rural scenes at 0.3 m, stored uncut."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds

from data_prep import features
from data_prep.dataset import Converted, Dataset, Index, Item
from data_prep.images import encode_png, lossless, read_rgb, read_values
from rsfm_jax.data.formats import IGNORE, Report, loveda
from rsfm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoveDa(Dataset):
    """LoveDA: {Train,Val,Test}/{Urban,Rural}; the masks of the test split are all ignored."""

    name = "loveda"
    items_per_shard = 64

    @property
    def published(self) -> dict[str, int]:
        return {"train images": 2522, "val images": 1669, "test images": 1796}

    def features(self) -> tfds.features.FeaturesDict:
        return features.segmentation(loveda.CLASSES, loveda.DOMAINS)

    def index(self, hashes: Callable[[list[str]], list[str]], bad: Report) -> Index:
        return Index({split: list(self._items(split, bad)) for split in loveda.SPLITS})

    def convert(self, item: Item, bad: Report) -> Converted:
        data, pixels = read_rgb(self.path(item.files[0]))
        mask = np.full(pixels.shape[:2], IGNORE, np.uint8)
        if len(item.files) > 1:
            path = self.path(item.files[1])
            mask = loveda.decode_mask(read_values(path), str(path), bad)
            if mask.shape != pixels.shape[:2]:
                sizes = (f"{width} x {height}" for height, width, *_ in (mask.shape, pixels.shape))
                raise UserError("{}: {} pixels, but its image has {}".format(path, *sizes))
        example = {
            "image": lossless(data, pixels),
            "image_id": item.id,
            "mask": encode_png(mask),
            "domain": item.label,
        }
        return Converted([example])

    def _items(self, split: str, bad: Report) -> Iterator[Item]:
        for number, domain in enumerate(loveda.DOMAINS):
            images, masks = loveda.folders(split, domain)
            names = sorted(path.name for path in self.path(images).glob("*.png"))
            if not names:
                bad(f"{self.path(images).parent}: no images, expected {images}/*.png")
            for name in names:
                files = f"{images}/{name}", f"{masks}/{name}"
                labelled = self.path(files[1]).exists()
                if not labelled and split != "test":
                    bad(f"{self.path(files[1])}: missing")
                    continue
                place = f"{loveda.SPLITS[split]}/{domain}/{name.removesuffix('.png')}"
                yield Item(place, files[: 1 + labelled], number)
