"""DOTA v1.0, v1.5 and v2.0: large images cut into patches, as mmrotate and the devkit do."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from data_prep import features
from data_prep.dataset import Converted, Dataset, Index, Item, option
from data_prep.images import encode_jpeg, read_bytes, read_rgb
from rsfm_jax.data.downloads import dota_entries
from rsfm_jax.data.formats import Objects, Report, dota
from rsfm_jax.data.formats.windows import (
    area_inside,
    resized_window,
    scaled_shape,
    window_starts,
)
from rsfm_jax.errors import UserError

PATCH = 1024  # pixels a side
# Resize factors and the overlap of neighbouring patches (mmrotate split configs).
SCALES = {"single": ((1.0,), 200), "multi": ((0.5, 1.0, 1.5), 500)}
KEPT_SHARE = 0.7  # of an object's area that must lie in a patch (mmrotate iof_thr)
PADDING = (124, 116, 104)  # RGB means of ImageNet; mmrotate writes them as BGR 104, 116, 124
QUALITY = 95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dota(Dataset):
    """DOTA: {train,val,test}/images with labelTxt folders, cut into patches of 1024 pixels."""

    version: str = option("2.0", "of the labels", choices=tuple(dota.CLASSES))
    scales: str = option(
        "single", "scale 1 with gap 200, or 0.5/1/1.5 with gap 500", choices=tuple(SCALES)
    )
    v1_source: str = option("", "folder of DOTA v1.0, whose images the v2.0 download leaves out")
    classes: str = option("", "of your own data in this layout, such as windmill,pylon")
    empty: str = option(
        "drop", "patches without objects, of images with labels", choices=("drop", "keep")
    )

    name = "dota"
    items_per_shard = 8

    @property
    def config(self) -> str:
        return f"{'own' if self.classes else f'v{self.version}'}_{self.scales}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the version, or the own ones."""
        if not self.classes:
            return dota.CLASSES[self.version]
        names = tuple(self.classes.split(","))
        if len(set(names)) < len(names) or any(len(name.split()) != 1 for name in names):
            raise UserError(f"--classes={self.classes}: give different words with commas between")
        return names

    @property
    def published(self) -> dict[str, int]:
        if self.classes:
            return {}
        images = {"train images": 1411, "val images": 458, "test images": 937}  # v1.0 and v1.5
        if self.version != "2.0":
            return images
        return {
            "train images": 1830,
            "train objects": 268_627,
            "val images": 593,
            "val objects": 81_048,
            "test images": 2792,  # test-dev
        }

    def options(self) -> dict:
        return {key: getattr(self, key) for key in ("version", "scales", "classes", "empty")}

    def features(self) -> tfds.features.FeaturesDict:
        return features.detection(self.class_names)

    def index(self, hashes: Callable[[list[str]], list[str]], bad: Report) -> Index:
        if self.path("images").is_dir():
            return Index({"train": self._items("", bad)})
        splits = {name: self._items(name, bad) for name in ("train", "val", "test")}
        for name in ("train", "val"):  # the test images are a download of their own
            if not splits[name]:
                bad(f"{self.path(name)}: no images, expected {name}/images and {name}/labelTxt")
        return Index(splits)

    def convert(self, item: Item, bad: Report) -> Converted:
        objects, labelled = Objects.stack([]), len(item.files) > 1
        if labelled:
            labels = self.path(item.files[1])
            text = read_bytes(labels).decode("utf-8", "replace")
            objects = dota.parse_labels(text, str(labels), self.class_names, bad)
        _, pixels = read_rgb(self.path(item.files[0]))
        drop_empty = labelled and self.empty == "drop"
        patches = _patches(item.id, pixels, objects, *SCALES[self.scales], drop_empty)
        return Converted(patches, len(objects.labels))

    def _items(self, split: str, bad: Report) -> list[Item]:
        """Images of both downloads with their labels; only test images may go without."""
        roots = [Path(root) for root in (self.source, self.v1_source) if root]
        items = []
        for name, *files in dota_entries(roots, split, self.version, bad):
            if files[1] is None and split != "test":
                bad(f"{files[0]}: no label file {name}.txt for v{self.version}")
            else:
                places = (os.path.relpath(file, self.source) for file in files if file)
                items.append(Item(name, tuple(Path(place).as_posix() for place in places)))
        return items


def _patches(
    image_id: str,
    pixels: np.ndarray,
    objects: Objects,
    scales: tuple[float, ...],
    gap: int,
    drop_empty: bool,
) -> Iterator[dict]:
    """Detection examples of PATCH pixels a side, padded at the right and bottom of small images.

    An object goes to every patch that holds KEPT_SHARE of its area; it keeps its difficulty.
    """
    for scale in scales:
        height, width = scaled_shape(pixels, scale)
        polygons = objects.polygons * scale
        for y in window_starts(height, PATCH, PATCH - gap):
            for x in window_starts(width, PATCH, PATCH - gap):
                share = area_inside(polygons, x, y, x + PATCH, y + PATCH)
                kept = share >= KEPT_SHARE
                if drop_empty and not kept.any():
                    continue
                window = resized_window(pixels, scale, x, y, PATCH, PADDING)
                yield {
                    "image": encode_jpeg(window, QUALITY),
                    "image_id": dota.patch_id(image_id, scale, x, y),
                    "polygons": (polygons[kept] - [x, y]).astype(np.float32),
                    "labels": objects.labels[kept],
                    "difficult": objects.difficult[kept],
                    "truncated": (share[kept] < 1 - 1e-6).astype(np.uint8),
                }
