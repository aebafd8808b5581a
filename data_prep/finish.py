"""The last step of a build: number the shards, write what TFDS and people read about them."""

import importlib.metadata
import os
import shutil
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import naming
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from data_prep.dataset import VERSION, Dataset
from data_prep.units import Unit, write_json
from rsfm_jax.errors import UserError


def unnumbered(work: Path, split: str, number: int) -> Path:
    """Name of a shard while it is not known how many there will be."""
    return work / f"{split}-{number:05d}.shard"


def nothing_usable(dataset: Dataset, bad: list[str]) -> UserError:
    """The error for raw data without a single usable item."""
    first = f" ({len(bad)} bad inputs, the first: {bad[0]})" if bad else ""
    return UserError(f"{dataset.source or dataset.name}: no usable raw data{first}")


def finish(
    dataset: Dataset,
    work: Path,
    units: dict[str, list[Unit]],
    bad: list[str],
    duplicates: list[tuple[str, str]],
) -> None:
    """Gives the shards their final names and writes manifests and TFDS metadata into `work`.

    Args:
      units: the finished shards of each split.
      bad, duplicates: what was left out when the raw files were listed.

    Running it again on the same folder gives the same result, so a build may be killed here too.
    Raises UserError when no shard holds an example.
    """
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
        numbered = template.replace(split=split)
        lengths, totals = _number_shards(work, split, split_units, numbered, bad)
        if not lengths:
            bad.append(f"split {split}: no example in its {totals['images']:,} images")
            continue
        described.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=totals.pop("bytes"),
                filename_template=numbered,
            )
        )
        summary[split] = {"examples": sum(lengths), **totals}
    if not described:
        shutil.rmtree(work)  # nothing worth keeping: the next build starts with mended files
        raise nothing_usable(dataset, bad)
    info.set_splits(tfds.core.SplitDict(described))
    info.write_to_directory(work)
    manifest = {
        "name": dataset.name,
        "options": dataset.options(),
        "splits": summary,
        "published": dict(dataset.published),
        "bad": bad,
        "duplicates": duplicates,
        "libraries": {
            name: importlib.metadata.version(name)
            for name in ("tensorflow-datasets", "array-record", "opencv-python-headless",
                         "simplejpeg", "pillow", "numpy")
        },
    }  # fmt: skip
    write_json(work / "manifest.json", manifest)
    shutil.rmtree(work / "progress")
    for name in ("plan.json", "lock"):
        (work / name).unlink()


def _number_shards(
    work: Path, split: str, units: list[Unit], template: naming.ShardedFileTemplate, bad: list[str]
) -> tuple[list[int], dict[str, int]]:
    """Names the shards `00000-of-N` with a manifest each; gives their lengths and totals.

    A shard all of whose items were bad holds nothing and is left out of the numbering.
    """
    totals = dict.fromkeys(("images", "objects", "labelled", "bytes"), 0)
    kept: list[tuple[int, int]] = []
    for old, unit in enumerate(units):
        result = unit.result()
        bad += result["bad"]
        for key in totals:
            totals[key] += result[key]
        if result["records"]:
            write_json(work / "manifest" / f"{split}-{len(kept):05d}.json", result)
            kept.append((old, len(result["records"])))
    for new, (old, _) in enumerate(kept):
        path = Path(template.sharded_filepath(shard_index=new, num_shards=len(kept)))
        if not path.exists():  # a build killed while renaming has some of them already
            os.replace(unnumbered(work, split, old), path)
    for leftover in work.glob(f"{split}-*.shard"):
        leftover.unlink()
    return [length for _, length in kept], totals
