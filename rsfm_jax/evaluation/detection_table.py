"""The average precisions of an evaluation as a table to read."""

from pathlib import Path

import numpy as np

from rsfm_jax.evaluation.dota_map import Evaluation
from rsfm_jax.files import write_text

COLUMNS = ("class", "objects", "detections", "AP50", "AP75", "AP50:95")


def write_table(path: Path, evaluation: Evaluation, note: str) -> None:
    """Writes Markdown: one row a class, then the means over classes with objects.

    Args:
      path: the file to write.
      evaluation: at COCO_THRESHOLDS.
      note: a line above the table.
    """
    precision = evaluation.average_precision  # [classes, thresholds]
    at_75 = evaluation.thresholds.index(0.75)
    averages = np.stack([precision[:, 0], precision[:, at_75], precision.mean(1)], axis=1)
    found = [len(curve.scores) for curve in evaluation.curves]
    rows = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 1)]]
    for name, objects, count, row in zip(
        evaluation.classes, evaluation.objects, found, averages, strict=True
    ):
        rows.append([name, f"{objects}", f"{count}", *map(_number, row)])
    used = averages[evaluation.objects > 0]
    means = used.mean(axis=0) if len(used) else np.full(3, np.nan)
    rows.append(["**mean**", f"{evaluation.objects.sum()}", f"{sum(found)}", *map(_number, means)])
    lines = [note, "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    write_text(path, "\n".join(lines))


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"
