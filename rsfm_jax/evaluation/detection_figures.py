"""Pictures of a detection evaluation, written atomically as PNG."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rsfm_jax.evaluation.confusion_figure import draw_matrix
from rsfm_jax.evaluation.figures import save

COLUMNS = 4


def draw_precision_recall(path: Path, evaluation) -> None:
    """One panel a class with objects to find: precision over recall at the first threshold."""
    shown = np.flatnonzero(evaluation.objects)
    rows = max(1, -(-len(shown) // COLUMNS))
    figure = Figure(figsize=(2.6 * COLUMNS, 2.2 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.axis("off")
    for axes, label in zip(panels, shown, strict=False):
        curve = evaluation.curves[label]
        average = evaluation.average_precision[label, 0]
        if len(curve.recall):  # from recall 0, so that a single detection shows, too
            recall = np.insert(curve.recall, 0, 0)
            precision = np.insert(curve.precision, 0, curve.precision[0])
            axes.plot(recall, precision, drawstyle="steps-pre")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
        axes.set_title(f"{evaluation.classes[label]}  {average:.3f}", fontsize=9)
    threshold = evaluation.thresholds[0]
    figure.suptitle(f"AP at IoU > {threshold:g}, mean {evaluation.mean:.3f}", fontsize=10)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    save(figure, path)


def draw_confusion(path: Path, matrix: np.ndarray, classes) -> None:
    """The matrix of `confusion_matrix` with its counts, coloured by share of the true class."""
    draw_matrix(path, matrix, matrix.astype(str), [*classes, "background"], ("true", "detected"))
