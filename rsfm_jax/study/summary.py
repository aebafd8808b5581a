"""A study's outcome: one CSV with every run's full config, and tables with intervals."""

import csv
import io
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from rsfm_jax.errors import UserError
from rsfm_jax.files import write_text
from rsfm_jax.study.cells import PRETRAIN, Cell, finished_metrics

AXES = ("task", "size", "fraction", "pretrained", "seed")

# One cell's axes, `metric` (its name), `value`, all `eval/...` and the run's config, flattened.
Row = dict[str, Any]


def read_rows(cells: Iterable[Cell], workdir: Path) -> list[Row]:
    """Rows of the finished cells.

    Raises:
      UserError: a finished run did not measure what the study is about.
    """
    rows = []
    for cell in cells:
        metrics = finished_metrics(workdir / cell.name)
        if metrics is None:
            continue
        if cell.metric and cell.metric not in metrics:
            measured = ", ".join(key for key in metrics if key.startswith("eval/"))
            raise UserError(
                f"config.tasks.{cell.task}.metric={cell.metric} is not in "
                f"{workdir / cell.name / 'metrics.jsonl'}, which has {measured}"
            )
        config = json.loads((workdir / cell.name / "config.json").read_text())
        rows.append(
            {axis: getattr(cell, axis) for axis in AXES}
            | {"metric": cell.metric, "value": metrics.get(cell.metric, "")}
            | {key: value for key, value in metrics.items() if key.startswith("eval/")}
            | {f"config.{key}": value for key, value in _flat(config).items()}
        )
    return rows


def write_csv(path: Path, rows: list[Row]) -> None:
    """All rows; a column for every key that any of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student's t); 0 for a single value."""
    if len(values) == 1:
        return values[0], 0.0
    spread = statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), float(student.ppf(0.975, len(values) - 1)) * spread


def tables(rows: list[Row]) -> str:
    """Markdown: for each task sizes down, fractions across, in per cent, mean ± interval."""
    parts = []
    for task in dict.fromkeys(row["task"] for row in rows if row["task"] != PRETRAIN):
        mine = [row for row in rows if row["task"] == task]
        fractions = sorted({row["fraction"] for row in mine})
        seeds = len({row["seed"] for row in mine})
        lines = [
            f"**{task}**: {mine[0]['metric'].removeprefix('eval/')} in per cent; {seeds} seeds, "
            "mean ± 95 % interval",
            "",
            "| encoder | start | " + " | ".join(f"{f:.0%} of the labels" for f in fractions) + " |",
            "| --- | --- |" + " --- |" * len(fractions),
        ]
        for size in dict.fromkeys(row["size"] for row in mine):
            for pretrained in sorted({row["pretrained"] for row in mine}, reverse=True):
                start = "pretrained" if pretrained else "scratch"
                shown = [_shown(mine, size, pretrained, fraction) for fraction in fractions]
                lines.append(f"| {size} | {start} | " + " | ".join(shown) + " |")
            gains = [_shown_gain(mine, size, fraction) for fraction in fractions]
            if any(gains):
                lines.append(f"| {size} | gain, paired by seed | " + " | ".join(gains) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def values_of(rows: list[Row], size: str, pretrained: bool, fraction: float) -> list[float]:
    """One place of the grid over its seeds."""
    place = (size, pretrained, fraction)
    return [
        row["value"] for row in rows if (row["size"], row["pretrained"], row["fraction"]) == place
    ]


def _shown(rows: list[Row], size: str, pretrained: bool, fraction: float) -> str:
    values = values_of(rows, size, pretrained, fraction)
    if not values:
        return "–"
    seeds = len({row["seed"] for row in rows})
    return _mean_text(values, seeds)


def _shown_gain(rows: list[Row], size: str, fraction: float) -> str:
    """Pretrained minus from scratch, over the seeds that have both; "" for none."""
    values = {
        (row["pretrained"], row["seed"]): row["value"]
        for row in rows
        if (row["size"], row["fraction"]) == (size, fraction)
    }
    seeds = {seed for _, seed in values}
    gains = [
        values[True, seed] - values[False, seed]
        for seed in sorted(seeds)
        if {(True, seed), (False, seed)} <= values.keys()
    ]
    return _mean_text(gains, len({row["seed"] for row in rows})) if gains else ""


def _mean_text(values: list[float], seeds: int) -> str:
    """Per cent, with the interval, and the number of seeds where it is not all of `seeds`."""
    mean, half = mean_and_interval([100 * value for value in values])
    text = f"{mean:.1f} ± {half:.1f}" if len(values) > 1 else f"{mean:.1f}"
    return text if len(values) == seeds else f"{text} ({len(values)} of {seeds} seeds)"


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat
