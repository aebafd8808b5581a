"""What every data set module fills in; `datasets/` holds one subclass each."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import tensorflow_datasets as tfds

from rsfm_jax.data.formats import Report
from rsfm_jax.errors import UserError

VERSION = "1.0.0"  # of the stored form; part of the path


class Item(NamedTuple):
    """One piece of raw data: a picture with its label file.

    files: paths relative to the source folder, with forward slashes; the picture comes first.
    label: class or domain index where the folder decides it; -1 = unlabelled.
    """

    id: str
    files: tuple[str, ...]
    label: int = -1


class Index(NamedTuple):
    """Items of each split, and (left out, kept) pairs of files with equal content."""

    splits: dict[str, list[Item]]
    duplicates: list[tuple[str, str]] = []


class Converted(NamedTuple):
    """Examples made of one item, and how many labelled objects the item had before cutting."""

    examples: Iterable[dict]
    objects: int = 0


def option(default, help: str, *, choices: tuple[str, ...] = (), limits=(-math.inf, math.inf)):
    """A dataclass field that the command line offers as `--name`; numbers lie within `limits`."""
    metadata = {"help": help, "choices": choices, "limits": limits}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(ABC):
    """One raw data set and how it becomes examples.

    Fields declared with `option` are the flags of `python -m data_prep build NAME`.

    Class attributes:
      name: of the data set, the first folder below --data_dir.
      items_per_shard: makes shards of roughly 100 MB.
      published: numbers to compare a whole download with; keys as in `verify.counts`.
    """

    source: str = option("", "folder of the raw data set")

    name: ClassVar[str]
    items_per_shard: ClassVar[int]

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, (low, high) = getattr(self, field.name), field.metadata["limits"]
            if not isinstance(value, str) and not low <= value <= high:
                raise UserError(f"--{field.name}={value}: must be from {low} to {high}")

    @property
    def config(self) -> str:
        """The folder between name and version that keeps different builds apart; may be empty."""
        return ""

    @property
    def published(self) -> Mapping[str, int]:
        """Published counts, such as {"train images": 1830}."""
        return {}

    @abstractmethod
    def features(self) -> tfds.features.FeaturesDict:
        """What an example holds; called after `index`."""

    @abstractmethod
    def index(self, hashes: Callable[[list[str]], list[str]], bad: Report) -> Index:
        """Lists the items without reading pictures; `hashes` maps files to their sha256."""

    @abstractmethod
    def convert(self, item: Item, bad: Report) -> Converted:
        """Turns one item into examples.

        `bad` takes labels that are left out. Raises UserError, naming the file, where the whole
        item is of no use.
        """

    def path(self, relative: str) -> Path:
        """A file of the source folder."""
        return Path(self.source) / relative

    def options(self) -> dict:
        """The options that shape the result: all but the place of the raw files."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "source"}
