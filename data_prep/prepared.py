"""Prepared data sets on disk: finding them, and reading their records with what they mean."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from data_prep.dataset import VERSION
from data_prep.shards import read_shard
from data_prep.units import Runner, Unit, run_units
from rsfm_jax.data.decode import BadImage, decode_rgb
from rsfm_jax.errors import UserError


class Shard(NamedTuple):
    """One file of a split."""

    split: str
    path: Path
    examples: int
    manifest: Path

    def records(self) -> list[tuple[str, int, str]]:
        """(image_id, number of objects, sha256) of each record as it was written."""
        return [tuple(record) for record in json.loads(self.manifest.read_text())["records"]]


class Prepared:
    """One built data set. Raises UserError where it is not whole."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.manifest = json.loads((folder / "manifest.json").read_text())
            self.info = tfds.builder_from_directory(folder).info
            self.shards = list(self._shards())
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: not a whole prepared data set: {error}") from error
        self.features = self.info.features

    def examples(
        self, shard: Shard, positions: Iterable[int] | None = None
    ) -> Iterator[tuple[str, dict]]:
        """(sha256, example) of all records or some; pictures and masks decoded to uint8 arrays.

        Raises UserError naming shard and record for what cannot be read.
        """
        encoded = [key for key in ("image", "mask") if key in self.features]
        skip = {key: tfds.decode.SkipDecoding() for key in encoded}
        for position, record in read_shard(shard.path, positions):
            where = f"{shard.path}: record {position}"
            try:
                example = self.features.deserialize_example_np(record, decoders=skip)
                for key in encoded:
                    example[key] = decode_rgb(example[key])
            except BadImage as error:
                raise UserError(f"{where}: {error}") from error
            except Exception as error:  # the record's parser raises many kinds
                raise UserError(f"{where}: not an example of this data set: {error}") from error
            if "mask" in example:
                example["mask"] = example["mask"][..., 0]
            example["image_id"] = example["image_id"].decode()
            yield hashlib.sha256(record).hexdigest(), example

    def names(self, key: str) -> list[str]:
        """Class names of a feature: `label`, `labels`, `mask` or `domain`."""
        feature = self.features[key]
        return list(getattr(feature, "feature", feature).names)

    def _shards(self) -> Iterator[Shard]:
        for split, info in self.info.splits.items():
            paths = zip(info.filepaths, info.shard_lengths, strict=True)
            for number, (path, examples) in enumerate(paths):
                manifest = self.folder / "manifest" / f"{split}-{number:05d}.json"
                yield Shard(split, Path(path), examples, manifest)


def find_prepared(name: str, data_dir: Path) -> list[Prepared]:
    """All builds of data set `name` below `data_dir`. Raises UserError when there is none."""
    folders = sorted(
        path.parent
        for pattern in (f"{VERSION}/manifest.json", f"*/{VERSION}/manifest.json")
        for path in (data_dir / name).glob(pattern)
    )
    if not folders:
        unfinished = any((data_dir / name).rglob(f"{VERSION}.incomplete"))
        reason = "an unfinished build, run build again" if unfinished else "nothing built"
        raise UserError(f"{data_dir / name}: {reason}")
    return [Prepared(folder) for folder in folders]


def scan(
    prepared: Prepared,
    shards: Sequence[Shard],
    work: Callable[[Prepared, Shard], Any],
    runner: Runner,
) -> list[Any]:
    """`work` done on each shard, in parallel; results in the order of the shards."""
    with tempfile.TemporaryDirectory() as scratch:
        units = [
            Unit(
                Path(scratch) / f"{number}.json",
                _scan_one,
                (work, prepared.folder, shard),
                shard.examples,
            )
            for number, shard in enumerate(shards)
        ]
        run_units(units, runner, prepared.info.name)
        return [unit.result() for unit in units]


def _scan_one(work: Callable[[Prepared, Shard], Any], folder: Path, shard: Shard) -> Any:
    return work(Prepared(folder), shard)
