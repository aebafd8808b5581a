"""A picture of examples of a split with their labels drawn in."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from data_prep.prepared import Prepared
from data_prep.units import partial_path
from rsfm_jax.data.formats import IGNORE

_CELL, _COLUMNS, _ROWS, _TEXT = 320, 5, 4, 18  # pixels; cells; pixels of a line of text


def write_contact_sheet(prepared: Prepared, split: str) -> Path:
    """Writes contact_sheet_SPLIT.png: boxes in class colours, masks half transparent, legend."""
    cells = [_cell(prepared, example) for example in _spread(prepared, split, _COLUMNS * _ROWS)]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % _COLUMNS)
    rows = [np.hstack(cells[start : start + _COLUMNS]) for start in range(0, len(cells), _COLUMNS)]
    sheet = np.vstack([*rows, *_legend(prepared, rows[0].shape[1])])
    target = prepared.folder / f"contact_sheet_{split}.png"
    partial = partial_path(target)
    partial.write_bytes(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
    partial.replace(target)
    return target


def _spread(prepared: Prepared, split: str, count: int) -> Iterator[dict]:
    """Up to `count` examples at even distances over all shards of the split."""
    shards = [shard for shard in prepared.shards if shard.split == split]
    ends = np.cumsum([shard.examples for shard in shards])
    wanted = np.unique(np.linspace(0, ends[-1] - 1, count).astype(int))
    for shard, end in zip(shards, ends, strict=True):
        here = wanted[(wanted >= end - shard.examples) & (wanted < end)] - (end - shard.examples)
        for _, example in prepared.examples(shard, here.tolist()):
            yield example


def _colours(count: int) -> np.ndarray:
    """`count` well-separated RGB colours, uint8 [count, 3]."""
    hue = np.arange(count) * 180 / max(count, 1)
    bright = np.where(np.arange(count) % 2, 170, 255)  # neighbours differ in brightness too
    hsv = np.stack([hue, np.full(count, 230), bright], -1).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]


def _cell(prepared: Prepared, example: dict) -> np.ndarray:
    image = example["image"]
    if "mask" in example:
        table = np.zeros((256, 3), np.uint8)
        colours = _colours(len(prepared.names("mask")))
        table[: len(colours)] = colours
        shown = (image // 2 + table[example["mask"]] // 2).astype(np.uint8)
        image = np.where((example["mask"] == IGNORE)[..., None], image, shown)
    scale = _CELL / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if "polygons" in example:
        colours = _colours(len(prepared.names("labels"))).tolist()
        for polygon, label in zip(example["polygons"], example["labels"], strict=True):
            points = [np.rint((polygon * scale - 0.5) * 16).astype(np.int32)]
            cv2.polylines(picture, points, True, colours[label], 1, cv2.LINE_AA, 4)
    cell = np.full((_CELL + _TEXT + 4, _CELL + 4, 3), 255, np.uint8)
    cell[: size[1], : size[0]] = picture
    _write(cell, _caption(prepared, example), 2, _CELL + _TEXT - 4)
    return cell


def _caption(prepared: Prepared, example: dict) -> str:
    text = example["image_id"]
    if example.get("label", -1) >= 0:
        text = f"{prepared.names('label')[example['label']]}: {text}"
    return text if len(text) <= 48 else f"{text[:20]}...{text[-25:]}"


def _legend(prepared: Prepared, width: int) -> list[np.ndarray]:
    """Lines of class names beside their colours, for boxes and masks."""
    lines = []
    for key in ("labels", "mask"):
        if key not in prepared.features:
            continue
        names = prepared.names(key)
        line, x = np.full((_TEXT + 4, width, 3), 255, np.uint8), 4
        for name, colour in zip(names, _colours(len(names)).tolist(), strict=True):
            needed = 30 + 8 * len(name)
            if x + needed > width:
                lines.append(line)
                line, x = np.full_like(line, 255), 4
            cv2.rectangle(line, (x, 4), (x + 14, 16), colour, -1)
            _write(line, name, x + 18, 15)
            x += needed
        lines.append(line)
    return lines


def _write(picture: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
