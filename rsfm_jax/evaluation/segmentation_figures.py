"""Pictures of a segmentation evaluation, written atomically as PNG."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rsfm_jax.evaluation.confusion_figure import draw_matrix
from rsfm_jax.evaluation.figures import save
from rsfm_jax.evaluation.segmentation import Colours, Example, Protocol, score

OPACITY = 0.5  # of the colours over the image


def overlay(image: np.ndarray, classes: np.ndarray, colours: Colours) -> np.ndarray:
    """Class colours laid over an image: uint8 [H, W, 3] and [H, W] -> uint8 [H, W, 3].

    Indices without a colour, such as 255, leave the image as it is.
    """
    palette = np.zeros((256, 3), np.float32)  # by any uint8
    palette[: len(colours)] = colours
    mixed = (1 - OPACITY) * image + OPACITY * palette[classes]
    return np.where((classes < len(colours))[..., None], mixed.round(), image).astype(np.uint8)


def draw_examples(path: Path, examples: Sequence[Example], protocol: Protocol) -> None:
    """One row for each of the examples, at least one: image, labels, predicted classes, legend.

    Pixels that do not count carry no colour among the labels, but one among the predictions.
    """
    figure = Figure(figsize=(9, 3.1 * len(examples) + 0.6), layout="constrained")
    grid = figure.subplots(len(examples), 3, squeeze=False)
    for row, example in zip(grid, examples, strict=True):
        truth, predicted = (
            overlay(example.image, classes, protocol.colours)
            for classes in (example.mask, example.classes)
        )
        titles = (PurePosixPath(example.name).name, "labels", "predicted")
        for axes, title, pixels in zip(row, titles, (example.image, truth, predicted), strict=True):
            axes.imshow(pixels, interpolation="nearest")
            axes.set_title(title, fontsize=8)
            axes.axis("off")
    legend = [
        Patch(facecolor=np.divide(colour, 255), edgecolor="black", label=name)
        for name, colour in zip(protocol.classes, protocol.colours, strict=True)
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=8)
    save(figure, path)


def draw_confusion(path: Path, counts: np.ndarray, protocol: Protocol) -> None:
    """Confusion counts [C, C] in per cent of each labelled class, the means above."""
    scores = score(counts)
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    texts = np.vectorize("{:.1f}".format, otypes=[str])(percent)
    draw_matrix(
        path,
        counts,
        texts,
        protocol.classes,
        ("labelled", "predicted"),
        f"% of pixels; mIoU {scores.mean_iou:.3f}, mF1 {scores.mean_f1:.3f}, "
        f"OA {scores.overall_accuracy:.3f}",
    )
