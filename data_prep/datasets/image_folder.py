"""Any folder of pictures, in class folders or not, as pretraining or classification data."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import tensorflow_datasets as tfds

from data_prep import features
from data_prep.dataset import Converted, Dataset, Index, Item, option
from data_prep.pretraining import TILE, drop_duplicates, stored_pictures
from rsfm_jax.data.formats import Report
from rsfm_jax.data.sources import SPLIT_FOLDERS, FolderSource
from rsfm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Pictures below one folder; subfolders are classes, or splits that hold classes."""

    short_side: int = option(
        320, f"shrink to this side; over {TILE} times that, cut first", limits=(16, 8192)
    )

    name = "image_folder"
    items_per_shard = 2048

    @property
    def config(self) -> str:
        folder = re.sub(r"\W+", "_", Path(self.source).resolve().name)
        return f"{folder}_side{self.short_side}"

    def features(self) -> tfds.features.FeaturesDict:
        return features.classification(self._splits()[0][1].class_names)

    def index(self, hashes: Callable[[list[str]], list[str]], bad: Report) -> Index:
        splits = {}
        for split, folder in self._splits():
            files = [
                Path(folder.name(number)).relative_to(self.source).as_posix()
                for number in range(len(folder))
            ]
            labels = [-1] * len(files) if folder.labels is None else folder.labels.tolist()
            splits[split] = [
                Item(file, (file,), label) for file, label in zip(files, labels, strict=True)
            ]
        return drop_duplicates(splits, hashes)

    def convert(self, item: Item, bad: Report) -> Converted:
        return Converted(stored_pictures(self.path(item.files[0]), item, self.short_side))

    def _splits(self) -> list[tuple[str, FolderSource]]:
        """Non-empty splits and their files; all must have the classes of the first."""
        folder = Path(self.source)
        if not folder.is_dir():
            raise UserError(f"--source={self.source}: not a folder")
        found = [name for name in SPLIT_FOLDERS if (folder / name).is_dir()] or ["train"]
        splits = [(name, FolderSource(folder, name)) for name in found]
        for name, source in splits:
            if source.class_names != splits[0][1].class_names:
                raise UserError(f"{folder / name}: other class folders than in {splits[0][0]}")
        return splits
