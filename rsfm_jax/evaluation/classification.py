"""Scores of scene classification, and the picture of what is taken for what."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsfm_jax.evaluation.confusion_figure import draw_matrix


def accuracies(counts: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Accuracies in [0, 1] from confusion counts [C, C] (row the true class), no row of zeros.

    Returns:
      `accuracy` over images, `mean_class_accuracy` over classes, `accuracy/NAME` of each class.
    """
    each = counts.diagonal() / counts.sum(1)
    overall = {
        "accuracy": float(counts.trace() / counts.sum()),
        "mean_class_accuracy": float(each.mean()),
    }
    return overall | {f"accuracy/{name}": float(x) for name, x in zip(names, each, strict=True)}


def draw_confusion(path: Path, counts: np.ndarray, names: Sequence[str]) -> None:
    """Confusion counts [C, C] as PNG, the accuracies above."""
    scores = accuracies(counts, names)
    title = (
        f"{counts.sum()} images; accuracy {scores['accuracy']:.3f}, "
        f"mean over classes {scores['mean_class_accuracy']:.3f}"
    )
    draw_matrix(path, counts, counts.astype(str), names, ("true", "predicted"), title)
