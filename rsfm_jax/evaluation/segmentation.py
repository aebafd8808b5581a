"""Scores of semantic segmentation on whole tiles: IoU, F1 and overall accuracy from counts.

Counts are int64: mmsegmentation's float32 histogram loses pixels above 2**24 of a class, and the
Potsdam test set has 504 million.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rsfm_jax.data.formats import IGNORE, loveda, potsdam
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.sliding_windows import Predict, Tile, Windows, segment

Colours = tuple[tuple[int, int, int], ...]


class Protocol(NamedTuple):
    """What is scored: classes in the order of their indices, and mask values that do not count."""

    classes: tuple[str, ...]
    colours: Colours
    ignored: tuple[int, ...] = (IGNORE,)


# The line of RSP, RVSA and S5: no clutter, neither as 255 nor as the sixth class of a mask.
POTSDAM_5 = Protocol(potsdam.CLASSES_5, potsdam.COLOURS[:5], (len(potsdam.CLASSES_5), IGNORE))
POTSDAM_6 = Protocol(potsdam.CLASSES_6, potsdam.COLOURS)  # of mmsegmentation
LOVEDA = Protocol(loveda.CLASSES, loveda.COLOURS)


class Scores(NamedTuple):
    """Scores in 0..1 of a confusion matrix.

    iou, f1: float64 [C], NaN for a class that stands in neither labels nor predictions.
    mean_iou, mean_f1: over the other classes; NaN where there is none.
    overall_accuracy: share of labelled pixels that are right; NaN where there is none.

    A class that was labelled but never predicted has F1 0, as in scikit-learn; mmsegmentation's
    mFscore leaves it out of the mean and is then larger.
    """

    iou: np.ndarray
    f1: np.ndarray
    mean_iou: float
    mean_f1: float
    overall_accuracy: float

    def as_metrics(self, classes: Iterable[str]) -> dict[str, float]:
        """Names as in metrics.jsonl; what is NaN is left out, as JSON has no number for it."""
        metrics = {"miou": self.mean_iou, "mf1": self.mean_f1, "oa": self.overall_accuracy}
        for name, iou, f1 in zip(classes, self.iou, self.f1, strict=True):
            key = name.replace(" ", "_")
            metrics |= {f"iou/{key}": iou, f"f1/{key}": f1}
        return {key: float(value) for key, value in metrics.items() if not np.isnan(value)}


class Example(NamedTuple):
    """A tile for pictures, thinned to few pixels: uint8 [h, w, 3], [h, w] and [h, w]."""

    name: str
    image: np.ndarray
    mask: np.ndarray
    classes: np.ndarray


class Evaluation(NamedTuple):
    """Counts int64 [C, C], row the labelled class and column the predicted one, and examples."""

    counts: np.ndarray
    examples: list[Example]


def evaluate(
    tiles: Iterable[Tile],
    predict: Predict,
    protocol: Protocol,
    batch_size: int,
    windows: Windows,
    examples: int = 8,
) -> Evaluation:
    """Predicts whole tiles by sliding windows and counts what is right.

    Args:
      tiles: with masks; read one after the other.
      predict: see `sliding_windows.segment`.
      protocol: whose classes `predict` scores.
      batch_size: windows a call of `predict`.
      windows: their size and stride.
      examples: the first so many tiles are kept for pictures.

    Raises:
      UserError: a tile without a mask, or with a mask of another size or with values that are no
        class, by its name; a model of another number of classes.
    """
    number = len(protocol.classes)
    counts = np.zeros((number, number), np.int64)
    shown: list[Example] = []
    checked = map(_check, tiles)
    bands = segment(checked, predict, number, batch_size, windows)
    for tile, parts in itertools.groupby(bands, key=lambda band: band.tile):
        rows = []
        for _, top, classes in parts:
            mask = tile.mask[top : top + len(classes)]
            counts += confusion_counts(mask, classes, protocol, tile.name)
            rows.append(classes)
        if len(shown) < examples:
            shown.append(_example(tile, np.concatenate(rows)))
    return Evaluation(counts, shown)


def confusion_counts(
    mask: np.ndarray, classes: np.ndarray, protocol: Protocol, where: str
) -> np.ndarray:
    """Pixels by labelled (row) and predicted (column) class, int64 [C, C].

    Args:
      mask: labels uint8 [H, W].
      classes: predictions uint8 [H, W], in 0..C-1 wherever the label counts.
      protocol: the classes, and which mask values do not count.
      where: the file, for the message.

    Raises:
      UserError: a mask value that is neither a class nor ignored, or a prediction that is no class.
    """
    number = len(protocol.classes)
    counted = ~np.isin(mask, protocol.ignored, kind="table")
    true, predicted = mask[counted], classes[counted]
    for kind, values in (("mask", true), ("predicted", predicted)):
        if values.size and values.max() >= number:
            raise UserError(
                f"{where}: {kind} value {values.max()}, but the {number} classes are 0 to "
                f"{number - 1} (ignored: {', '.join(map(str, protocol.ignored))})"
            )
    pairs = true.astype(np.int64) * number + predicted
    return np.bincount(pairs, minlength=number**2).reshape(number, number)


def score(counts: np.ndarray) -> Scores:
    """Scores of confusion counts [C, C]."""
    right = np.diag(counts)
    either = counts.sum(0) + counts.sum(1)  # twice the right ones, once all others
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is meant
        iou = right / (either - right)
        f1 = 2 * right / either
        overall = np.float64(right.sum()) / counts.sum()
    return Scores(iou, f1, _mean(iou), _mean(f1), float(overall))


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _check(tile: Tile) -> Tile:
    """Before any prediction, so that a bad tile costs nothing."""
    if tile.mask is None:
        raise UserError(f"{tile.name}: has no mask to evaluate against")
    if tile.mask.shape != tile.image.shape[:2]:
        sizes = (f"{shape[1]} x {shape[0]}" for shape in (tile.mask.shape, tile.image.shape))
        raise UserError("{}: mask of {} pixels, but its image has {}".format(tile.name, *sizes))
    return tile


def _example(tile: Tile, classes: np.ndarray, limit: int = 512) -> Example:
    """Every n-th pixel of a tile, at most `limit` a side; copies, so that the tile can go."""
    step = -(-max(classes.shape) // limit)
    assert tile.mask is not None  # `_check` has seen it
    image, mask, predicted = (
        np.array(pixels[::step, ::step]) for pixels in (tile.image, tile.mask, classes)
    )
    return Example(tile.name, image, mask, predicted)
