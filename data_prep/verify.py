"""Re-reads every record of a prepared data set and compares it with what was written."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from data_prep.prepared import Prepared, Shard, scan
from data_prep.units import Runner
from rsfm_jax.data.formats import IGNORE, polygon_area
from rsfm_jax.errors import UserError

_THIN = 2  # pixels; mmrotate drops boxes with a side below when it makes training targets


def verify(prepared: Prepared, runner: Runner) -> tuple[list[str], list[str]]:
    """Decodes and checks every record.

    Returns:
      summary: lines for the user; counts stand beside the published ones.
      faults: one line for each thing that is wrong; none for a sound data set.
    """
    results = scan(prepared, prepared.shards, check_shard, runner)
    faults = [line for result in results for line in result["faults"]]
    seen = sum((Counter(result["seen"]) for result in results), Counter())
    lines = [str(prepared.folder)]
    published = prepared.manifest["published"]
    for key, value in counts(prepared).items():
        expected = f" (published: {published[key]:,})" if key in published else ""
        lines.append(f"  {key}: {value:,}{expected}")
    lines += [f"  {key}: {seen[key]:,}" for key in sorted(seen)]
    for key in ("bad", "duplicates"):
        lines.append(f"  {key} left out: {len(prepared.manifest[key]):,}")
    return lines, faults


def counts(prepared: Prepared) -> dict[str, int]:
    """Raw images, labelled objects and examples made of them, by split and in all.

    Keys such as "train images", "train objects", "train examples", "images", "labelled",
    "classes"; published counts use the same ones.
    """
    splits = prepared.manifest["splits"]
    result = {
        f"{split} {key}": numbers[key]
        for split, numbers in splits.items()
        for key in ("images", "objects", "examples")
        if numbers[key]
    }
    result["images"] = sum(numbers["images"] for numbers in splits.values())
    if "label" in prepared.features:
        result["labelled"] = sum(numbers["labelled"] for numbers in splits.values())
    named = [key for key in ("label", "labels", "mask") if key in prepared.features]
    result["classes"] = len(prepared.names(named[0]))
    return result


def check_shard(prepared: Prepared, shard: Shard) -> dict:
    """Faults of one shard, and how often each class and each oddity was seen."""
    faults: list[str] = []
    seen: Counter[str] = Counter()
    count = 0
    expected = shard.records()
    try:
        for position, (digest, example) in enumerate(prepared.examples(shard)):
            where = f"{shard.path}: record {position} ({example['image_id']})"
            count += 1
            if position >= len(expected) or digest != expected[position][2]:
                faults.append(f"{where}: its hash is not the one in the manifest")
            faults += [f"{where}: {fault}" for fault in _faults(prepared, example)]
            seen.update(_oddities(example))
            seen.update(_classes(prepared, example))
    except UserError as error:
        faults.append(str(error))
    else:
        if count != len(expected):
            faults.insert(0, f"{shard.path}: {count} examples, {len(expected)} were written")
    return {"faults": faults, "seen": seen}


def _faults(prepared: Prepared, example: dict) -> Iterator[str]:
    height, width = example["image"].shape[:2]
    if "mask" in example:
        mask = example["mask"]
        if mask.shape != (height, width):
            yield f"mask of {mask.shape[::-1]} pixels on an image of {(width, height)}"
        if (mask[mask != IGNORE] >= len(prepared.names("mask"))).any():
            yield f"mask value {mask[mask != IGNORE].max()} is no class"
    if "label" in example and not -1 <= example["label"] < len(prepared.names("label")):
        yield f"label {example['label']} is no class"
    if "polygons" in example:
        polygons, labels = example["polygons"], np.asarray(example["labels"])
        lengths = {len(example[key]) for key in ("polygons", "labels", "difficult", "truncated")}
        if len(lengths) > 1:
            yield "polygons, labels, difficult and truncated differ in number"
        if not np.isfinite(polygons).all():
            yield "a polygon is not finite"
        if (polygon_area(polygons) <= 0).any():
            yield "a polygon has no area"
        if ((labels < 0) | (labels >= len(prepared.names("labels")))).any():
            yield "an object's label is no class"
        centres = polygons.mean(1)
        if ((centres < 0) | (centres > [width, height])).any():
            yield "an object's centre lies outside the image"


def _oddities(example: dict) -> Iterator[str]:
    """Sound but worth a line in the summary."""
    if "polygons" not in example:
        return
    if not len(example["polygons"]):
        yield "examples without objects"
    for key in ("difficult", "truncated"):
        yield from [f"objects {key}"] * int((np.asarray(example[key]) > 0).sum())
    sides = np.linalg.norm(np.roll(example["polygons"], -1, 1) - example["polygons"], axis=-1)
    yield from [f"objects under {_THIN} pixels wide"] * int((sides.min(-1) < _THIN).sum())


def _classes(prepared: Prepared, example: dict) -> Counter:
    found: Counter = Counter()
    for key in ("label", "labels"):
        if key in example:
            names = dict(enumerate(prepared.names(key)))
            found.update(
                f"{key} {names.get(int(value), 'none')}" for value in np.ravel(example[key])
            )
    return found
