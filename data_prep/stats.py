"""Streams pixel statistics of a split into JSON that training configs read."""

from pathlib import Path

import numpy as np

from data_prep.prepared import Prepared, Shard, scan
from data_prep.units import Runner, write_json
from rsfm_jax.data.formats import IGNORE
from rsfm_jax.errors import UserError

_BANDS = ("red", "green", "blue")
_PERCENTILES = (0.1, 1, 2, 5, 25, 50, 75, 95, 98, 99, 99.9)
_LEVELS = np.arange(256)


def write_stats(prepared: Prepared, split: str, runner: Runner) -> Path:
    """Computes the statistics of one split and writes them as stats_SPLIT.json.

    All are exact: they come from the counts of the 256 values, added up over the shards.

    Raises UserError for an unknown split or an unreadable record.
    """
    if split not in prepared.info.splits:
        raise UserError(
            f"{prepared.folder} has no split {split!r}, it has: {', '.join(prepared.info.splits)}"
        )
    shards = [shard for shard in prepared.shards if shard.split == split]
    results = scan(prepared, shards, count_shard, runner)
    target = prepared.folder / f"stats_{split}.json"
    write_json(target, summarize(results, prepared, split))
    return target


def summarize(results: list[dict], prepared: Prepared, split: str) -> dict:
    """Joins the counts of shards. Means and percentiles are in 8-bit levels, 0 to 255."""
    bands = np.sum([result["bands"] for result in results], axis=0)  # [3, 256]
    sides = np.concatenate([result["sides"] for result in results])  # [N, 2]
    summary = {
        "data_set": "/".join(filter(None, (prepared.info.name, prepared.info.config_name))),
        "split": split,
        "examples": len(sides),
        "unit": "uint8",
        "bands": {
            name: _describe(counts) for name, counts in zip(_BANDS, bands, strict=True)
        },
        # In the order red, green, blue, as a training configuration takes them.
        "mean": [_describe(counts)["mean"] for counts in bands],
        "std": [_describe(counts)["std"] for counts in bands],
        "short_side": {"min": int(sides.min(1).min()), "median": float(np.median(sides.min(1))),
                       "max": int(sides.min(1).max())},
        "long_side": {"max": int(sides.max(1).max())},
    }  # fmt: skip
    for key in ("label", "labels", "mask"):
        if key in prepared.features:
            totals = np.sum([result["classes"][key] for result in results], axis=0)
            names = [*prepared.names(key), "ignored"] if key == "mask" else prepared.names(key)
            summary[f"{key}_counts"] = dict(zip(names, totals.tolist(), strict=True))
    return summary


def count_shard(prepared: Prepared, shard: Shard) -> dict:
    """Counts of band values [3, 256], of classes by feature, and image sides (w, h)."""
    bands = np.zeros((3, 256), np.int64)
    classes = {
        key: np.zeros(len(prepared.names(key)) + (key == "mask"), np.int64)
        for key in ("label", "labels", "mask")
        if key in prepared.features
    }
    sides = []
    for _, example in prepared.examples(shard):
        image = example["image"]
        sides.append([image.shape[1], image.shape[0]])
        bands += [np.bincount(image[..., band].ravel(), minlength=256) for band in range(3)]
        for key, totals in classes.items():
            values = np.atleast_1d(example[key]).ravel().astype(np.int64)
            if key == "mask":  # the ignored value counts last
                values = np.where(values == IGNORE, len(totals) - 1, values)
            totals += np.bincount(values[values >= 0], minlength=len(totals))
    return {
        "bands": bands.tolist(),
        "classes": {key: totals.tolist() for key, totals in classes.items()},
        "sides": sides,
    }


def _describe(counts: np.ndarray) -> dict:
    """Moments and percentiles of values 0..255 counted in `counts` [256]."""
    total = int(counts.sum())
    mean = float((counts * _LEVELS).sum() / total)
    variance = float((counts * (_LEVELS - mean) ** 2).sum() / total)
    seen = np.flatnonzero(counts)
    reached = np.cumsum(counts) / total
    return {
        "mean": mean,
        "std": variance**0.5,
        "min": int(seen[0]),
        "max": int(seen[-1]),
        "percentiles": {
            str(share): int(np.searchsorted(reached, share / 100)) for share in _PERCENTILES
        },
    }
