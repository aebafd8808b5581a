"""A study's grid: one cell is one run of launch/main.py in a folder of its own."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsfm_jax.errors import UserError

PRETRAIN = "pretrain"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run and its place in the grid.

    Attributes:
      task: a name of `config.tasks`, or `pretrain`.
      size: named encoder size.
      fraction: share of the labelled images, in (0, 1].
      pretrained: whether it starts from its size's pretraining.
      seed: of everything random.
      config: for --config.
      overrides: KEY=VALUE pairs for --config.KEY=VALUE.
      metric: the name in metrics.jsonl that the study is about; "" for pretraining.
      after: folder name of the cell that has to be finished before; "" for none.
    """

    task: str
    size: str
    fraction: float
    pretrained: bool
    seed: int
    config: str
    overrides: tuple[str, ...]
    metric: str
    after: str

    @property
    def name(self) -> str:
        """Folder below the study's."""
        if self.task == PRETRAIN:
            return f"{PRETRAIN}-{self.size}-seed{self.seed}"
        start = "pretrained" if self.pretrained else "scratch"
        return f"{self.task}-{self.size}-{self.fraction:g}-{start}-seed{self.seed}"

    def arguments(self, workdir: Path) -> list[str]:
        """Of launch/main.py, for the study in `workdir`."""
        settings = [f"seed={self.seed}", *self.overrides]
        if self.task != PRETRAIN:
            settings.append(f"data.fraction={self.fraction:g}")
        if self.after:
            settings.append(f"init_from={workdir / self.after}")
        return [
            f"--config={self.config}",
            f"--workdir={workdir / self.name}",
            *(f"--config.{setting}" for setting in settings),
        ]


def study_cells(config: Any) -> list[Cell]:
    """All cells, pretraining first, then those that start from it or from scratch.

    Raises:
      UserError: an axis without values, or one that names a value twice.
    """
    for axis in ("sizes", "fractions", "pretrained", "seeds", "tasks"):
        values = list(config[axis])
        if not values or len(set(values)) < len(values):
            raise UserError(f"config.{axis}={values!r}: give one value or more, each once")
    pretraining = list(_pretraining(config)) if True in config.pretrained else []
    return pretraining + list(_fine_tuning(config))


def _pretraining(config: Any) -> Iterator[Cell]:
    experiment = config.pretrain
    for size, seed in itertools.product(config.sizes, _pretraining_seeds(config)):
        yield Cell(
            task=PRETRAIN,
            size=size,
            fraction=1.0,
            pretrained=False,
            seed=seed,
            config=experiment.config.format(size=size),
            overrides=_overrides(experiment, size),
            metric="",
            after="",
        )


def _overrides(experiment: Any, size: str) -> tuple[str, ...]:
    return tuple(setting.replace("{size}", size) for setting in experiment.overrides)


def _pretraining_seeds(config: Any) -> tuple[int, ...]:
    """Every seed's own, or one pretraining a size for all of them."""
    return tuple(config.seeds) if config.pretrain.every_seed else tuple(config.seeds)[:1]


def _fine_tuning(config: Any) -> Iterator[Cell]:
    grid = itertools.product(
        config.tasks.items(), config.sizes, config.fractions, config.pretrained, config.seeds
    )
    for (task, experiment), size, fraction, pretrained, seed in grid:
        before = seed if seed in _pretraining_seeds(config) else config.seeds[0]
        yield Cell(
            task=task,
            size=size,
            fraction=float(fraction),
            pretrained=pretrained,
            seed=seed,
            config=experiment.config.format(size=size),
            overrides=_overrides(experiment, size),
            metric=experiment.metric,
            after=f"{PRETRAIN}-{size}-seed{before}" if pretrained else "",
        )


def finished_metrics(folder: Path) -> dict[str, float] | None:
    """The last evaluation's metrics of a run that came to its end; None of any other."""
    try:
        total = json.loads((folder / "config.json").read_text())["total_steps"]
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return None
    metrics: dict[str, float] = {}
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # a line that a kill cut short; the resumed run wrote it again
            continue
        if values["step"] == total:
            metrics |= values
    return metrics if any(key.startswith("eval/") for key in metrics) else None
