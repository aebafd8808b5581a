"""The picture of a confusion matrix, of boxes or of pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rsfm_jax.evaluation.figures import save


def draw_matrix(
    path: Path,
    counts: np.ndarray,
    texts: np.ndarray,
    names: Sequence[str],
    axes_labels: tuple[str, str],
    title: str = "",
) -> None:
    """Draws counts [N, N], coloured by share of their row, as PNG.

    Args:
      path: the PNG to write.
      counts: row the true class, column the predicted one.
      texts: [N, N] strings, shown in the cells that are not zero.
      names: N names, of rows and columns.
      axes_labels: what rows and columns stand for.
      title: above the matrix.
    """
    size = 2.5 + 0.42 * len(names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, texts[row, column], ha="center", va="center", color=color,
                  fontsize=7)  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.set(ylabel=axes_labels[0], xlabel=axes_labels[1])
    figure.colorbar(image, ax=axes, label=f"share of the {axes_labels[0]} class", shrink=0.7)
    save(figure, path)
