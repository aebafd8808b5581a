"""Pictures of images with the boxes of their objects and of what was detected."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rsfm_jax.evaluation.figures import save

LONG_SIDE = 900  # pixels that a picture is shrunk to, about what the page shows
WIDTH = 5.5  # inches of a picture
COLUMNS = 6  # of the legend
GOLDEN_RATIO = (5**0.5 - 1) / 2  # its multiples spread evenly, however many


class Boxes(NamedTuple):
    """Corners [N, 4, 2] in pixels of the image, and classes [N]."""

    polygons: np.ndarray
    labels: np.ndarray


class Picture(NamedTuple):
    """An image, shrunk, with its objects (None: not labelled) and what was detected."""

    name: str
    pixels: np.ndarray
    truths: Boxes | None
    detections: Boxes


def picture(name: str, pixels: np.ndarray, truths: Boxes | None, detections: Boxes) -> Picture:
    """Shrinks an image uint8 [H, W, 3] with its boxes to `LONG_SIDE`; never enlarges."""
    factor = min(1, LONG_SIDE / max(pixels.shape[:2]))
    size = [max(1, round(length * factor)) for length in pixels.shape[1::-1]]
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if factor < 1 else pixels

    def shrunk(boxes: Boxes) -> Boxes:
        return boxes._replace(polygons=boxes.polygons * factor)

    return Picture(name, small, truths and shrunk(truths), shrunk(detections))


def draw_detections(
    path: Path, pictures: Sequence[Picture], classes: Sequence[str], min_score: float
) -> None:
    """One row an image: its objects, then the detections; colours tell the classes.

    Args:
      path: the PNG to write.
      pictures: a few.
      classes: their names; a legend has those that occur.
      min_score: what the detections drawn have at least, for the title.
    """
    colours = _colours(len(classes))
    heights = [min(2 * WIDTH, WIDTH * len(p.pixels) / p.pixels.shape[1]) for p in pictures]
    size = 2 * WIDTH, sum(heights) + 0.3 * len(pictures) + 0.6  # titles and legend
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    panels = figure.subplots(len(pictures), 2, squeeze=False, height_ratios=heights)
    for (left, right), shown in zip(panels, pictures, strict=True):
        for axes, boxes, what in (
            (left, shown.truths, "objects"),
            (right, shown.detections, f"detections, score {min_score:g} or more"),
        ):
            _draw(axes, shown.pixels, boxes, colours)
            count = "no labels" if boxes is None else f"{len(boxes.labels)} {what}"
            axes.set_title(f"{shown.name}: {count}", fontsize=9)
    present = sorted(
        {
            int(label)
            for shown in pictures
            for boxes in (shown.truths, shown.detections)
            if boxes is not None
            for label in boxes.labels
        }
    )
    lines = [Line2D([], [], color=colours[label], label=classes[label]) for label in present]
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=COLUMNS, fontsize=8)
    save(figure, path)


def _colours(count: int) -> np.ndarray:
    """Bright RGB colours [count, 3] in 0..1; neighbours in the list are far apart."""
    number = np.arange(count)
    hue = number * GOLDEN_RATIO % 1
    return hsv_to_rgb(np.stack([hue, 1 - 0.4 * (number % 2), np.ones(count)], axis=-1))


def _draw(axes, pixels: np.ndarray, boxes: Boxes | None, colours: np.ndarray) -> None:
    # Pixel (0, 0) covers 0..1 in the boxes' coordinates.
    axes.imshow(pixels, extent=(0, pixels.shape[1], pixels.shape[0], 0))
    axes.autoscale(False)
    axes.axis("off")
    if boxes is not None:
        edges = colours[np.asarray(boxes.labels, int)]  # [] is of floats
        axes.add_collection(
            PolyCollection(
                list(boxes.polygons), facecolors="none", edgecolors=edges, linewidths=1.1
            )
        )
