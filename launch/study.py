"""Asks how size, labels and pretraining change results: sizes x fractions x tasks x starts.

    python launch/study.py --config=configs/study.py --workdir=runs/study
    python launch/study.py --config=configs/study.py --workdir=DIR --mode=list
    python launch/study.py --config=configs/study.py --workdir=DIR --cell=7

Each cell is a run of launch/main.py in WORKDIR/CELL. The first form runs all that are not
finished, one after the other, and then writes study.csv (every run's metrics and full config),
study.md (tables) and study.png (scaling plots); killed, it goes on where it was. On many machines
give each a cell: `--mode=list` prints the numbers of the two stages, and docs/study.md the SLURM
array and the Kubernetes job. `--mode=summarize` writes the outcome of what is finished so far.
Exit status: as launch/main.py; 1 where a cell failed.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags

from launch.command import EXIT_BAD_INPUT, EXIT_PREEMPTED, execute, make_folder
from launch.config_flag import read_config
from rsfm_jax.errors import UserError
from rsfm_jax.files import write_text
from rsfm_jax.study.cells import PRETRAIN, Cell, finished_metrics, study_cells
from rsfm_jax.study.figures import draw_scaling
from rsfm_jax.study.summary import read_rows, tables, write_csv

MAIN = Path(__file__).with_name("main.py")


def settled(cell: Cell, workdir: Path) -> int | None:
    """The exit status of a cell that is finished, or cannot start yet; None of one to run."""
    if finished_metrics(workdir / cell.name) is not None:
        return 0
    if cell.after and finished_metrics(workdir / cell.after) is None:
        print(f"{cell.name}: {cell.after} has to be finished before", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(f"== {cell.name}", flush=True)
    return None


def run_cell(cell: Cell, workdir: Path) -> int:
    """Runs or resumes one cell unless it is finished; returns its exit status."""
    status = settled(cell, workdir)
    if status is not None:
        return status
    child = subprocess.Popen([sys.executable, str(MAIN), *cell.arguments(workdir)])
    with passing_signals_on(child):
        return child.wait()


@contextmanager
def passing_signals_on(child: subprocess.Popen) -> Iterator[None]:
    """SIGTERM goes to the child, which saves and leaves with 75; Ctrl-C has reached it already."""
    handlers: dict[int, Any] = {
        signal.SIGTERM: lambda *_: child.terminate(),
        signal.SIGINT: lambda *_: None,
    }
    replaced = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def run_all(cells: list[Cell], workdir: Path) -> int:
    """Runs what is not finished; a failed cell does not keep the others from running."""
    failed = []
    for cell in cells:
        status = run_cell(cell, workdir)
        if status == EXIT_PREEMPTED:
            return status
        if status:
            failed.append(cell.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def print_list(cells: list[Cell], workdir: Path) -> None:
    """The numbers of both stages, then each cell with its command."""
    first = sum(cell.task == PRETRAIN for cell in cells)
    for stage, numbers in (("pretraining", range(first)), ("tasks", range(first, len(cells)))):
        if numbers:
            print(f"# {stage}: cells {numbers.start}-{numbers.stop - 1}")
    for number, cell in enumerate(cells):
        done = "finished" if finished_metrics(workdir / cell.name) is not None else "to do"
        print(f"{number}\t{done}\t{cell.name}\t{shlex.join(cell.arguments(workdir))}")


def summarize(cells: list[Cell], workdir: Path) -> None:
    """Writes study.csv, study.md and study.png of the cells that are finished."""
    rows = read_rows(cells, workdir)
    if not any(row["metric"] for row in rows):
        raise UserError(f"--workdir={workdir}: no task's cell is finished yet")
    write_csv(workdir / "study.csv", rows)
    write_text(workdir / "study.md", tables(rows))
    draw_scaling(workdir / "study.png", rows)
    print(f"{len(rows)} of {len(cells)} cells: {workdir}/study.csv, study.md, study.png")


def run(config: Any, workdir: Path, mode: str, cell: int | None) -> int:
    """Does what --mode and --cell say; returns the exit status."""
    cells = study_cells(config)
    if cell is not None:
        if not 0 <= cell < len(cells):
            raise UserError(f"--cell={cell}: the study has cells 0 to {len(cells) - 1}")
        status = settled(cells[cell], workdir)
        if status is None:
            # In this process's place: schedulers signal every process of a job, and a second
            # signal would end the cell before it has saved.
            os.execv(sys.executable, [sys.executable, str(MAIN), *cells[cell].arguments(workdir)])
        return status
    if mode == "list":
        print_list(cells, workdir)
        return 0
    make_folder(workdir, f"--workdir={workdir}")
    status = run_all(cells, workdir) if mode == "run" else 0
    if status != EXIT_PREEMPTED:
        summarize(cells, workdir)
    return status


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit status."""
    # Not at import: launch/main.py has flags of the same names.
    workdir = flags.DEFINE_string("workdir", "runs/study", "Folder for all cells and the outcome")
    mode = flags.DEFINE_enum("mode", "run", ["run", "list", "summarize"], "What to do")
    cell = flags.DEFINE_integer("cell", None, "Run this cell only, by its number in the list")
    if {"--help", "-h"} & set(arguments):
        print(__doc__, flags.FLAGS.main_module_help(), sep="\n")
        return 0
    return execute(lambda: run(read_config(arguments), Path(workdir.value), mode.value, cell.value))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
