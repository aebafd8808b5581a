"""What a user sees of a run: progress, metrics.jsonl and TensorBoard."""

import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import jax
from tensorboardX import SummaryWriter
from tqdm.auto import tqdm

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"


class Reporter:
    """Writes metrics on process 0; the other processes write nothing.

    A progress bar on a terminal, plain lines otherwise.
    """

    def __init__(self, workdir: Path, total_steps: int, start_step: int):
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        self._lines = _open_lines(workdir / METRICS)
        # Steps after the checkpoint that this run resumes from are done again.
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def progress(self, step: int) -> None:
        """Moves the bar to `step`."""
        if self._writes:
            self._bar.update(step - self._bar.n)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """One line of metrics.jsonl, the same to TensorBoard, and a line to read."""
        if not self._writes or not metrics:
            return
        metrics = {key: float(value) for key, value in metrics.items()}
        finite = {key: x if math.isfinite(x) else None for key, x in metrics.items()}
        self._lines.write(json.dumps({"step": step, **finite}) + "\n")  # JSON has no NaN
        for key, value in finite.items():
            if value is not None:  # it warns of them, and shows a gap anyway
                self._board.add_scalar(key.replace(":", "-"), value, step)  # it takes no colons
        text = summary(metrics)
        if self._bar.disable:
            log.info("step %d/%d  %s", step, self._bar.total, text)
        elif "loss" in metrics:
            self._bar.set_postfix_str(text)
        else:
            tqdm.write(f"step {step}  {text}")

    def close(self) -> None:
        """Flushes everything."""
        if self._writes:
            self._lines.close()
            self._board.close()
            self._bar.close()


def _open_lines(file: Path) -> TextIO:
    """To append to, without the half line that a full disk can have left at the end."""
    if file.exists():
        whole = file.read_bytes().rpartition(b"\n")
        os.truncate(file, len(whole[0]) + len(whole[1]))
    return file.open("a", buffering=1)


def summary(metrics: dict[str, float]) -> str:
    """The few numbers a person watches."""
    formats = {
        "loss": "loss {:.4f}",
        "images_per_second": "{:.1f} images/s",
        "data_wait": "data wait {:.0%}",
        "mfu": "mfu {:.1%}",
    }
    parts = [text.format(metrics[key]) for key, text in formats.items() if key in metrics]
    if "seconds_left" in metrics:
        parts.append(f"{tqdm.format_interval(metrics['seconds_left'])} left")
    evals = {key.removeprefix("eval/"): v for key, v in metrics.items() if key.startswith("eval/")}
    return "  ".join(parts + [f"{key} {value:.4f}" for key, value in evals.items()])
