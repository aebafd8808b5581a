"""DIOR-R: 800-pixel images with rotated boxes in VOC XML."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_prep import features
from data_prep.dataset import Converted, Dataset, Index, Item
from data_prep.images import lossless, read_bytes, read_rgb
from rsfm_jax.data.downloads import dior_entries, dior_list
from rsfm_jax.data.formats import Report, dior
from rsfm_jax.data.formats.windows import area_inside


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiorR(Dataset):
    """DIOR-R: splits of ImageSets/Main; images and boxes are stored uncut."""

    name = "dior_r"
    items_per_shard = 512

    @property
    def published(self) -> dict[str, int]:
        return {"train images": 5862, "val images": 5863, "test images": 11_738}

    def features(self) -> tfds.features.FeaturesDict:
        return features.detection(dior.CLASSES)

    def index(self, hashes: Callable[[list[str]], list[str]], bad: Report) -> Index:
        root = Path(self.source)
        splits = {}
        for split in ("train", "val", "test"):
            if not dior_list(root, split).exists():
                bad(f"{dior_list(root, split)}: missing, it lists the images of the split")
                continue
            splits[split] = [
                Item(name, tuple(file.relative_to(root).as_posix() for file in files if file))
                for name, *files in dior_entries(root, split, bad)
            ]
        return Index(splits)

    def convert(self, item: Item, bad: Report) -> Converted:
        image, annotation = (self.path(file) for file in item.files)
        objects = dior.parse_labels(read_bytes(annotation), str(annotation), bad)
        data, pixels = read_rgb(image)
        height, width = pixels.shape[:2]
        inside = area_inside(objects.polygons, 0, 0, width, height)
        example = {
            "image": lossless(data, pixels),
            "image_id": item.id,
            **objects._asdict(),
            "truncated": (inside < 1 - 1e-6).astype(np.uint8),
        }
        return Converted([example], len(objects.labels))
