"""Drawn scenes with kind, boxes and land cover; also as raw downloads of every other data set."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_prep import features
from data_prep.dataset import Converted, Dataset, Index, Item, option
from data_prep.images import encode_jpeg, encode_png
from data_prep.raw_scenes import write_raw
from rsfm_jax.data.formats import Report, dota
from rsfm_jax.data.formats.windows import area_inside
from rsfm_jax.data.sources import SYNTHETIC_SPLITS
from rsfm_jax.data.synthetic import COVER, SCENE_KINDS, draw_scene


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic(Dataset):
    """Procedurally drawn aerial scenes; needs no download.

    With --source=RAW it also writes small raw data sets in the layouts that the other readers
    expect, RAW/dota, RAW/potsdam and so on; those that exist are left alone.
    """

    scenes: int = option(512, "training scenes; val and test get an eighth each", limits=(1, 10**8))
    size: int = option(256, "pixels a side", limits=(16, 8192))

    name = "synthetic"
    items_per_shard = 1024

    @property
    def config(self) -> str:
        return f"{self.scenes}x{self.size}px"

    def features(self) -> tfds.features.FeaturesDict:
        return features.scene(SCENE_KINDS, dota.CLASSES["2.0"], COVER)

    def index(self, hashes: Callable[[list[str]], list[str]], bad: Report) -> Index:
        if self.source:
            write_raw(Path(self.source))
        counts = (self.scenes, max(1, self.scenes // 8), max(1, self.scenes // 8))
        return Index(
            {
                split: [
                    Item(f"{split}/{number}", (), number % len(SCENE_KINDS))
                    for number in range(count)
                ]
                for split, count in zip(SYNTHETIC_SPLITS, counts, strict=True)
            }
        )

    def convert(self, item: Item, bad: Report) -> Converted:
        split, number = item.id.split("/")
        # The same scenes as the training source `synthetic` draws while it runs.
        seed = (SYNTHETIC_SPLITS.index(split) << 32) + int(number)
        scene = draw_scene(seed, self.size, SCENE_KINDS[item.label])
        classes = dota.CLASSES["2.0"]
        inside = area_inside(scene.polygons, 0, 0, self.size, self.size)
        example = {
            "image": encode_jpeg(scene.image, 95),
            "image_id": item.id,
            "label": item.label,
            "polygons": scene.polygons,
            "labels": np.array([classes.index(name) for name in scene.classes], np.int64),
            "difficult": np.zeros(len(scene.classes), np.uint8),
            "truncated": (inside < 1 - 1e-6).astype(np.uint8),
            "mask": encode_png(scene.mask),
        }
        return Converted([example], len(scene.classes))
