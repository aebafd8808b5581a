"""Scaling plots of a study, written atomically as PNG."""

from pathlib import Path

from matplotlib.figure import Figure

from rsfm_jax.evaluation.figures import save
from rsfm_jax.models.sizes import vit_size
from rsfm_jax.study.cells import PRETRAIN
from rsfm_jax.study.summary import Row, mean_and_interval, values_of


def draw_scaling(path: Path, rows: list[Row]) -> None:
    """A row of panels a task: the metric over encoder size, and over the share of labels.

    Solid lines start from pretraining, dashed ones from scratch; bars are 95 % intervals.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows if row["task"] != PRETRAIN))
    figure = Figure(figsize=(9, 3.4 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), 2, squeeze=False)
    for (over_size, over_labels), task in zip(grid, tasks, strict=True):
        mine = [row for row in rows if row["task"] == task]
        sizes = sorted({row["size"] for row in mine}, key=weights)
        fractions = sorted({row["fraction"] for row in mine})
        starts = sorted({row["pretrained"] for row in mine}, reverse=True)
        for pretrained in starts:
            style = {"linestyle": "-" if pretrained else "--", "marker": "o", "capsize": 3}
            word = "pretrained" if pretrained else "scratch"
            for number, fraction in enumerate(fractions):
                places = [(weights(size), (size, pretrained, fraction)) for size in sizes]
                label = f"{fraction:.0%} of the labels, {word}"
                _line(over_size, mine, places, label, color=f"C{number}", **style)
            for number, size in enumerate(sizes):
                places = [(fraction, (size, pretrained, fraction)) for fraction in fractions]
                _line(over_labels, mine, places, f"{size}, {word}", color=f"C{number}", **style)
        metric = mine[0]["metric"].removeprefix("eval/")
        over_size.set(xscale="log", xlabel="weights of the blocks", ylabel=f"{task}: {metric}, %")
        over_labels.set(xscale="log", xlabel="share of the labelled images")
        for axes in (over_size, over_labels):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
    save(figure, path)


def weights(size: str) -> int:
    """Elements of the encoder blocks' matrices: what a size is drawn at."""
    vit = vit_size(size)
    per_branch = 4 * vit.width**2 + 2 * vit.width * vit.mlp_dim
    return vit.depth * vit.num_branches * per_branch


def _line(axes, rows: list[Row], places, label: str, **style) -> None:
    found = [(x, values_of(rows, *place)) for x, place in places]
    points = [(x, *mean_and_interval([100 * v for v in values])) for x, values in found if values]
    if points:
        xs, means, halves = zip(*points, strict=True)
        axes.errorbar(xs, means, halves, label=label, linewidth=1.2, **style)
