"""Pictures of a pretraining run, written atomically as PNG."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from rsfm_jax.files import write_atomically


def draw_reconstructions(
    path: Path, columns: dict[str, np.ndarray], note: str, limit: int = 8
) -> None:
    """One row an image, one titled column a version of it.

    Args:
      path: the PNG to write.
      columns: title -> uint8 images [N, H, W, 3].
      note: a line under the pictures.
      limit: rows drawn at most.
    """
    rows = min(limit, *map(len, columns.values()))
    figure = Figure(figsize=(2 * len(columns), 2 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=9)
        for row in range(rows):
            axes[row, column].imshow(images[row], interpolation="nearest")
            axes[row, column].axis("off")
    figure.supxlabel(note, fontsize=8)
    save(figure, path)


def draw_probes(path: Path, history: Sequence[dict[str, float]], baselines: Sequence[str]) -> None:
    """Probe accuracies over steps, with the baselines as dashed lines.

    Args:
      path: the PNG to write.
      history: lines of metrics.jsonl that hold `eval/knn`, `eval/linear` and, for each name in
        `baselines`, `eval/knn_NAME` and `eval/linear_NAME`.
      baselines: names of the baselines.
    """
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels = zip(figure.subplots(1, 2, sharey=True), ("knn", "linear"), strict=True)
    for axes, probe in panels:
        steps = [line["step"] for line in history]
        axes.plot(steps, [line[f"eval/{probe}"] for line in history], "o-", label="this run")
        for number, name in enumerate(baselines, start=1):
            level = history[-1][f"eval/{probe}_{name}"]
            label = name.replace("_", " ")
            axes.axhline(level, linestyle="--", color=f"C{number}", label=label)
        axes.set(title=f"{probe} probe", xlabel="step", ylabel="accuracy")
        axes.legend(fontsize=8)
    save(figure, path)


def probe_history(metrics_file: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl that hold probe accuracies, the last of each step."""
    if not metrics_file.exists():
        return []
    lines = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    by_step = {line["step"]: line for line in lines if "eval/linear" in line}
    return [by_step[step] for step in sorted(by_step)]


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG; a dollar in a name is no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    canvas = FigureCanvasAgg(figure)
    write_atomically(path, lambda temporary: canvas.print_png(str(temporary)))
