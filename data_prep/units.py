"""Independent pieces of work that are done once: a killed run goes on where it stopped.

A unit's result is a JSON file written last and in one go, so that it stands for finished work
whatever happened. Units run in local processes or on Apache Beam; what they write depends on
the unit alone, never on who runs it.
"""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
from tqdm import tqdm

from rsfm_jax.errors import UserError

# Name of a file that is being written; the process number keeps two attempts apart.
PARTIAL = ".{name}.{process}.partial"


class Unit(NamedTuple):
    """`work(*arguments)` gives a JSON-able result, kept in the file `done`."""

    done: Path
    work: Callable[..., Any]
    arguments: tuple
    weight: int  # items, for the progress bar

    def result(self) -> Any:
        """What the work gave; the unit must have been run."""
        return json.loads(self.done.read_text())


class Runner(Protocol):
    """Runs `execute` on units in any order and gives each back when it is through."""

    def __call__(self, units: Sequence[Unit]) -> Generator[Unit, None, None]:
        """Lazily: closing the iterator drops what has not begun."""


def run_units(units: Sequence[Unit], runner: Runner, title: str) -> None:
    """Works on all units that have no result yet, with a progress bar on a terminal.

    Raises UserError with the first failed unit's line; finished units keep their results.
    """
    left = [unit for unit in units if not unit.done.exists()]
    for unit in units:
        unit.done.parent.mkdir(parents=True, exist_ok=True)
    total = sum(unit.weight for unit in units)
    before = total - sum(unit.weight for unit in left)
    with (
        tqdm(total=total, initial=before, desc=title, unit=" items", disable=None) as bar,
        contextlib.closing(runner(left)) as finished,
    ):
        for unit in finished:
            failed = _failure(unit)
            if failed.exists():
                message = failed.read_text()
                failed.unlink()
                raise UserError(message)
            bar.update(unit.weight)


def execute(unit: Unit) -> None:
    """Does one unit's work and writes its result or, next to it, why there is none."""
    try:
        write_json(unit.done, unit.work(*unit.arguments))
    except UserError as error:
        _failure(unit).write_text(str(error))


def partial_path(path: Path) -> Path:
    """Where to write what shall become `path` once it is whole."""
    return path.with_name(PARTIAL.format(name=path.name, process=os.getpid()))


def write_json(path: Path, value: Any) -> None:
    """Writes under a temporary name and renames, so that `path` is whole or absent."""
    partial = partial_path(path)
    try:
        partial.write_text(json.dumps(value))
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; finished work is kept, run again") from error


def local_runner(workers: int) -> Runner:
    """Runs units in `workers` processes of this machine; one worker is this process itself."""

    def run(units: Sequence[Unit]) -> Generator[Unit, None, None]:
        if workers == 1:
            for unit in units:
                execute(unit)
                yield unit
            return
        context = multiprocessing.get_context("spawn")  # forks of threaded libraries hang
        pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_start_worker)
        try:
            futures = {pool.submit(execute, unit): unit for unit in units}
            for future in concurrent.futures.as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, most likely for lack of memory: run again with "
                "fewer --workers, finished work is kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    return run


def beam_runner(name: str, arguments: Sequence[str]) -> Runner:
    """Runs units on an Apache Beam runner; sources and outputs must be on a shared file system.

    Args:
      name: such as DirectRunner, FlinkRunner, SparkRunner or DataflowRunner.
      arguments: further Beam pipeline options, `--key=value`.
    """

    def run(units: Sequence[Unit]) -> Generator[Unit, None, None]:
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise UserError(
                "--beam_runner needs Apache Beam: pip install rsfm_jax[beam]"
            ) from error
        options = PipelineOptions([f"--runner={name}", *arguments])
        with beam.Pipeline(options=options) as pipeline:
            spread = pipeline | beam.Create(list(units)) | beam.Reshuffle()
            spread | beam.Map(execute)
        yield from units

    return run


def _start_worker() -> None:
    cv2.setNumThreads(1)  # one process a core is enough

    def follow_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)  # a killed build must not go on writing beside the one that takes over

    threading.Thread(target=follow_parent, daemon=True).start()


def _failure(unit: Unit) -> Path:
    return unit.done.with_suffix(".error")
