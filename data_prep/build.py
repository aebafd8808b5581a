"""Builds a prepared data set: index the raw files, write shards, describe the result."""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import naming
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from data_prep.dataset import VERSION, Dataset, Index, Item
from data_prep.shards import build_shard, sha256
from data_prep.units import Runner, Unit, run_units, write_json
from rsfm_jax.data.formats import stop
from rsfm_jax.errors import UserError

_FILES_PER_HASH_UNIT = 2000


def build(dataset: Dataset, data_dir: Path, runner: Runner, on_bad: str) -> Path:
    """Builds into DATA_DIR/NAME[/CONFIG]/VERSION and returns that folder.

    Work goes on in a neighbour folder ending in `.incomplete`, which is renamed at the end: a
    folder without that ending is whole. Building what is already there does nothing.

    Raises UserError for bad raw data (`on_bad="stop"`), for nothing usable at all, and for other
    options or raw files than those of the finished or unfinished build found.
    """
    final = data_dir / dataset.name / dataset.config / VERSION
    if final.exists():
        return _already_built(final, dataset)
    work = final.with_name(f"{VERSION}.incomplete")
    _make_folder(work / "progress")
    bad: list[str] = []
    index = dataset.index(
        lambda files: _hashes(dataset, files, work, runner),
        bad.append if on_bad == "skip" else stop,
    )
    splits = {name: _shuffled(items) for name, items in index.splits.items() if items}
    if not splits:
        raise UserError(f"{dataset.source or dataset.name}: no raw data found" + _first(bad))
    _check_same_plan(work, dataset, splits, on_bad)
    features = dataset.features()
    units = {
        split: [
            Unit(
                work / "progress" / f"{split}-{number:05d}.json",
                build_shard,
                (dataset, features, items, _unnumbered(work, split, number), on_bad),
                len(items),
            )
            for number, items in enumerate(_chunks(split_items, dataset.items_per_shard))
        ]
        for split, split_items in splits.items()
    }
    run_units([unit for split in units.values() for unit in split], runner, dataset.name)
    _finish(dataset, work, units, index, bad)
    os.replace(work, final)
    return final


def _finish(
    dataset: Dataset, work: Path, units: dict[str, list[Unit]], index: Index, bad: list[str]
) -> None:
    """Gives the shards their final names and writes manifests and TFDS metadata."""
    info = tfds.core.DatasetInfo(
        builder=DatasetIdentity(
            name=dataset.name,
            version=tfds.core.Version(VERSION),
            data_dir=str(work),
            module_name="",
            config_name=dataset.config or None,
        ),
        features=dataset.features(),
        description=type(dataset).__doc__,
    )
    info.set_file_format("array_record")
    template = naming.ShardedFileTemplate(
        data_dir=work, dataset_name=dataset.name, filetype_suffix="array_record"
    )
    described, summary = [], {}
    for split, split_units in units.items():
        results = [json.loads(unit.done.read_text()) for unit in split_units]
        # A shard all of whose items were bad holds nothing and is left out of the numbering.
        kept = [number for number, result in enumerate(results) if result["records"]]
        bad += [line for result in results for line in result["bad"]]
        if not kept:
            continue
        numbered = template.replace(split=split)
        for new, old in enumerate(kept):
            _rename(
                _unnumbered(work, split, old),
                Path(numbered.sharded_filepath(shard_index=new, num_shards=len(kept))),
            )
            write_json(work / "manifest" / f"{split}-{new:05d}.json", results[old])
        kept_results = [results[number] for number in kept]
        lengths = [len(result["records"]) for result in kept_results]
        described.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=sum(result["bytes"] for result in kept_results),
                filename_template=numbered,
            )
        )
        summary[split] = {
            "examples": sum(lengths),
            **{
                key: sum(result[key] for result in kept_results)
                for key in ("images", "objects", "labelled")
            },
        }
    if not described:
        raise UserError(f"{dataset.source or dataset.name}: nothing usable" + _first(bad))
    info.set_splits(tfds.core.SplitDict(described))
    info.write_to_directory(work)
    manifest = {
        "name": dataset.name,
        "options": dataset.options(),
        "splits": summary,
        "published": dict(dataset.published),
        "bad": bad,
        "duplicates": index.duplicates,
        "libraries": {
            name: importlib.metadata.version(name)
            for name in ("tensorflow-datasets", "array-record", "opencv-python-headless",
                         "simplejpeg", "pillow", "numpy")
        },
    }  # fmt: skip
    write_json(work / "manifest.json", manifest)
    shutil.rmtree(work / "progress")
    (work / "plan.json").unlink()


def _hashes(dataset: Dataset, files: list[str], work: Path, runner: Runner) -> list[str]:
    """sha256 of each raw file, kept by name, size and time so that a restart hashes no more."""
    units = []
    for chunk in _chunks(files, _FILES_PER_HASH_UNIT):
        paths = [dataset.path(name) for name in chunk]
        key = hashlib.sha256(repr([(p, *_stamp(p)) for p in paths]).encode()).hexdigest()
        done = work / "progress" / f"hashes-{key[:24]}.json"
        units.append(Unit(done, _hash_files, (paths,), len(paths)))
    results = run_units(units, runner, f"{dataset.name} hashes")
    return [value for result in results for value in result]


def _hash_files(paths: list[Path]) -> list[str]:
    return [sha256(path) for path in paths]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns


def _shuffled(items: list[Item]) -> list[Item]:
    """A fixed order that depends on names only, so that any slice of a split is a fair sample."""
    return sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())


def _chunks(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _unnumbered(work: Path, split: str, number: int) -> Path:
    return work / f"{split}-{number:05d}.shard"


def _rename(old: Path, new: Path) -> None:
    if not new.exists():  # a build killed while renaming has some of them already
        os.replace(old, new)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path.parent / "manifest").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--data_dir: cannot make {path}: {error.strerror}") from error


def _check_same_plan(
    work: Path, dataset: Dataset, splits: dict[str, list[Item]], on_bad: str
) -> None:
    plan = {
        "options": dataset.options(),
        "on_bad": on_bad,
        "items": hashlib.sha256(repr(splits).encode()).hexdigest(),
    }
    path = work / "plan.json"
    if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(plan)):
        raise UserError(
            f"{work} is an unfinished build of other raw files or options: delete it to start "
            "over, or call with the same ones to go on"
        )
    write_json(path, plan)


def _already_built(final: Path, dataset: Dataset) -> Path:
    built = json.loads((final / "manifest.json").read_text())["options"]
    wanted = json.loads(json.dumps(dataset.options()))
    if built != wanted:
        raise UserError(f"{final} was built with {built}, not {wanted}: delete it or keep it")
    return final


def _first(bad: Sequence[str]) -> str:
    return f" ({len(bad)} bad inputs, the first: {bad[0]})" if bad else ""
