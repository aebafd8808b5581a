"""What MillionAID and plain folders of pictures share: one copy of each, at a readable size."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_prep.dataset import Index, Item
from data_prep.images import encode_jpeg, is_plain_jpeg, read_rgb, shrink
from rsfm_jax.data.sources import IMAGE_ENDINGS

TILE = 4  # a picture over TILE x short_side on a side is cut, so that shrinking keeps its detail


def list_images(root: str, folder: str) -> list[str]:
    """Sorted paths, relative to `root`, of the pictures at any depth below `root`/`folder`."""
    found = []
    for parent, _, names in os.walk(Path(root, folder), followlinks=True):
        below = Path(os.path.relpath(parent, root)).as_posix()
        found += [f"{below}/{name}" for name in names if name.lower().endswith(IMAGE_ENDINGS)]
    return sorted(found)


def drop_duplicates(
    splits: dict[str, list[Item]], hashes: Callable[[list[str]], list[str]]
) -> Index:
    """Keeps the first file of each content; labelled ones come before unlabelled ones."""
    ordered = [(split, item) for split, items in splits.items() for item in items]
    ordered.sort(key=lambda pair: pair[1].label < 0)  # stable: the given order otherwise
    contents = hashes([item.files[0] for _, item in ordered])
    kept: dict[str, str] = {}
    result = Index({split: [] for split in splits}, [])
    for (split, item), content in zip(ordered, contents, strict=True):
        if content in kept:
            result.duplicates.append((item.files[0], kept[content]))
        else:
            kept[content] = item.files[0]
            result.splits[split].append(item)
    return result


def stored_pictures(path: Path, item: Item, short_side: int) -> list[dict]:
    """Classification examples of one file: itself, shrunk, or cut into equal parts and shrunk.

    A plain RGB JPEG that needs neither is stored as it is; all others become JPEG, quality 90.
    Parts are named `id__x___y` after their corner in the file. Raises UserError.
    """
    data, pixels = read_rgb(path)
    parts = list(_parts(pixels, TILE * short_side))
    if len(parts) == 1 and min(pixels.shape[:2]) <= short_side and is_plain_jpeg(data):
        return [_example(item.id, data, item.label)]
    return [
        _example(
            item.id if len(parts) == 1 else f"{item.id}__{x}___{y}",
            encode_jpeg(shrink(part, short_side)),
            item.label,
        )
        for x, y, part in parts
    ]


def _example(image_id: str, data: bytes, label: int) -> dict:
    return {"image": data, "image_id": image_id, "label": label}


def _parts(pixels: np.ndarray, largest: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """(x, y, view) of a grid of nearly equal parts, none over `largest` pixels a side."""
    ys, xs = (_cuts(length, largest) for length in pixels.shape[:2])
    for y0, y1 in zip(ys[:-1], ys[1:], strict=True):
        for x0, x1 in zip(xs[:-1], xs[1:], strict=True):
            yield x0, y0, pixels[y0:y1, x0:x1]


def _cuts(length: int, largest: int) -> list[int]:
    count = math.ceil(length / largest)
    return [round(length * number / count) for number in range(count + 1)]
