"""MillionAID: labelled training folders and unlabelled test pictures as one pretraining set."""

import dataclasses
import hashlib
from collections.abc import Callable

import tensorflow_datasets as tfds

from data_prep import features
from data_prep.dataset import Converted, Dataset, Index, Item, option
from data_prep.pretraining import TILE, drop_duplicates, list_images, stored_pictures
from rsfm_jax.data.formats import Report


@dataclasses.dataclass(frozen=True, kw_only=True)
class MillionAid(Dataset):
    """MillionAID: train/LEVEL1/LEVEL2/LEVEL3/*.jpg with labels and test/*.jpg without."""

    short_side: int = option(
        320, f"shrink to this side; over {TILE} times that, cut first", limits=(16, 8192)
    )
    # The authors of RSP and RVSA held 51k of the million out and never published which.
    holdout: float = option(
        0.05, "share of the files that go to the split val, 0 to 1", limits=(0, 1)
    )
    seed: int = option(0, "of the held-out split")

    name = "millionaid"
    items_per_shard = 4096

    @property
    def config(self) -> str:
        return f"side{self.short_side}"

    @property
    def published(self) -> dict[str, int]:
        return {"images": 1_000_848, "labelled": 10_000, "classes": 51}

    def features(self) -> tfds.features.FeaturesDict:
        return features.classification(_classes(list_images(self.source, "train")))

    def index(self, hashes: Callable[[list[str]], list[str]], bad: Report) -> Index:
        labelled, unlabelled = (list_images(self.source, part) for part in ("train", "test"))
        for part, files in (("train", labelled), ("test", unlabelled)):
            if not files:
                bad(f"{self.path(part)}: no pictures there, expected MillionAID's {part} part")
        numbers = {name: number for number, name in enumerate(_classes(labelled))}
        items = [Item(file, (file,), numbers[_leaf(file)]) for file in labelled]
        items += [Item(file, (file,)) for file in unlabelled]
        once = drop_duplicates({"all": items}, hashes)
        splits: dict[str, list[Item]] = {"train": [], "val": []}
        for item in once.splits["all"]:
            splits["val" if self._is_held_out(item) else "train"].append(item)
        return Index(splits, once.duplicates)

    def convert(self, item: Item, bad: Report) -> Converted:
        return Converted(stored_pictures(self.path(item.files[0]), item, self.short_side))

    def _is_held_out(self, item: Item) -> bool:
        """A draw that depends on the seed and the file's name alone."""
        digest = hashlib.sha256(f"{self.seed} {item.id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < self.holdout


def _leaf(file: str) -> str:
    return file.split("/")[-2]


def _classes(files: list[str]) -> list[str]:
    """Names of the folders that hold pictures, the third level; 51 in the whole set."""
    return sorted({_leaf(file) for file in files})
