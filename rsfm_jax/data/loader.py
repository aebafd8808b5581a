"""Threads and processes that read batches; what is in them, `elements` says."""

import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import grain
import numpy as np
from absl import flags

from rsfm_jax.data.bad_examples import BadExamples
from rsfm_jax.data.decode import BadImage
from rsfm_jax.data.elements import Elements, Transform, read_example, subset
from rsfm_jax.data.sources import Source
from rsfm_jax.errors import UserError

# Rows of a batch are read in pieces of this many: few enough that all threads share the first
# batch and little memory is in flight, enough that handing a piece over costs little.
PIECE_ROWS = 16

Batch = dict[str, np.ndarray]


class Loader:
    """Iterates for ever over this process's rows of the global batches.

    Each batch holds what the transform gives, stacked over R = len(rows) rows, and
    "example_id": int32 [R].

    An example that cannot be read is logged once by name, counted in `bad_examples`, and
    replaced by the next one that can.

    `fingerprint` says what data it is, for a resumed run to compare.

    Use it as a context manager, or call `close`: it owns threads and processes. Worker
    processes start by importing the main module, so a script that uses them needs the
    `if __name__ == "__main__":` guard; they start no JAX backend.

    Args:
      source: where examples come from.
      transform: see `elements.Transform`; must pickle when `workers` > 0.
      batch_size: rows of the global batch.
      rows: numbers of the rows that this process holds, in [0, batch_size).
      seed: of order, augmentation and subset, >= 0.
      start_step: the first step whose batch is wanted.
      fraction: share of the examples in use, in (0, 1]. A smaller fraction is a subset of a
        larger one with the same seed.
      threads: read threads in each process; by default one a core without workers, else 1.
      workers: processes that read; 0 reads in this one, which is faster where decoding
        releases the GIL, as it does for JPEG and PNG.
      max_bad_fraction: share of the examples in use that may be unreadable, in [0, 1); each
        process counts those that it met.

    Raises:
      UserError: an argument is out of range; while iterating, too many bad examples.
    """

    def __init__(
        self,
        source: Source,
        *,
        transform: Transform,
        batch_size: int,
        rows: Sequence[int] | np.ndarray,
        seed: int,
        start_step: int = 0,
        fraction: float = 1.0,
        threads: int | None = None,
        workers: int = 0,
        max_bad_fraction: float = 0.01,
    ):
        rows = np.asarray(rows)
        if rows.size == 0 or rows.min() < 0 or rows.max() >= batch_size:
            raise UserError(f"rows must be in [0, {batch_size}) and at least one, got {rows}")
        ids = subset(len(source), fraction, seed)
        self.fingerprint = {"examples": len(ids)} | source.fingerprint
        self._bad = BadExamples(source, len(ids), max_bad_fraction)
        elements = Elements(source, transform, ids, seed, self._bad.allowed)
        piece_rows = np.array_split(rows, -(-rows.size // PIECE_ROWS))
        pieces = _Pieces(elements, batch_size, piece_rows)
        if threads is None:
            threads = 1 if workers else _cores()
        _limit_opencv()
        if workers and not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # outside absl's app.run Grain's worker flags raise
        dataset = (
            grain.MapDataset.source(pieces)[start_step * len(piece_rows) :]
            .to_iter_dataset(
                grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
            )
            .mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
                worker_init_fn=_start_worker,
            )
            .batch(len(piece_rows), batch_fn=_join)
        )
        # Joining runs in a thread of its own, one batch ahead.
        joined = grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=1)
        self._iterators = [iter(joined)]  # emptied on closing
        self._close = weakref.finalize(self, _close_all, self._iterators)

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        batch, bad = next(self._iterators[0])
        self._bad.add(bad)
        return batch

    @property
    def bad_examples(self) -> int:
        """How many distinct examples could not be read so far."""
        return len(self._bad)

    def close(self):
        """Stops the threads and processes; may be called again, and is at the program's exit."""
        self._close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_):
        self.close()


class _Pieces:
    """Random access to pieces of batches: piece i belongs to step i // pieces a step."""

    def __init__(self, elements: Elements, batch_size: int, rows: list[np.ndarray]):
        self._elements = elements
        self._batch_size = batch_size
        self._rows = rows  # one array a piece

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[Batch, dict[int, str]]:
        """The piece, {} when its rows could not be filled, and reasons of the bad examples."""
        step, piece = divmod(index, len(self._rows))
        bad: dict[int, str] = {}
        numbers = step * self._batch_size + self._rows[piece]
        examples = [self._elements.read(int(number), bad) for number in numbers]
        if not all(examples):
            return {}, bad
        return {key: np.stack([x[key] for x in examples]) for key in examples[0]}, bad


def load_all(
    source: Source,
    transform: Callable[[np.ndarray], np.ndarray],
    *,
    limit: int | None = None,
    seed: int = 0,
    max_bad_fraction: float = 0.01,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads a whole source, or a seeded part of it, into memory, in the source's order.

    Args:
      transform: uint8 [H, W, 3] -> uint8 [S, S, 3].
      limit: at most this many examples, as many of each class as there are where labelled.
      max_bad_fraction: as for `Loader`; unreadable examples are logged and left out.

    Returns:
      images uint8 [N, S, S, 3]; labels int32 [N], None from an unlabelled source.

    Raises:
      UserError: too many bad examples.
    """
    ids = np.arange(len(source)) if limit is None else _balanced(source, limit, seed)
    bad_examples = BadExamples(source, len(ids), max_bad_fraction)
    _limit_opencv()

    def load(example_id: int) -> tuple | str:
        try:
            example = read_example(source, example_id)
        except (BadImage, OSError) as error:
            return str(error)
        return transform(example["image"]), example.get("label")

    with ThreadPoolExecutor(_cores()) as threads:
        loaded = dict(zip(ids.tolist(), threads.map(load, ids.tolist()), strict=True))
    bad_examples.add({key: value for key, value in loaded.items() if isinstance(value, str)})
    images, labels = zip(*(x for x in loaded.values() if not isinstance(x, str)), strict=True)
    return np.stack(images), np.array(labels, np.int32) if source.class_names else None


def _join(pieces: Sequence[tuple[Batch, dict[int, str]]]) -> tuple[Batch, dict[int, str]]:
    batches, bads = zip(*pieces, strict=True)
    bad = {key: reason for part in bads for key, reason in part.items()}
    if not all(batches):
        return {}, bad
    return {key: np.concatenate([x[key] for x in batches]) for key in batches[0]}, bad


def _balanced(source: Source, limit: int, seed: int) -> np.ndarray:
    """Up to `limit` ids, ascending: the first of each class, then the second of each, ..."""
    shuffled = np.random.default_rng(seed).permutation(len(source))
    if source.labels is not None:
        labels = source.labels[shuffled]
        by_class = np.argsort(labels, kind="stable")
        rank = np.empty_like(by_class)  # how many of its class come before
        rank[by_class] = np.arange(len(labels)) - np.searchsorted(
            labels[by_class], labels[by_class]
        )
        shuffled = shuffled[np.argsort(rank, kind="stable")]
    return np.sort(shuffled[:limit])


def _close_all(iterators: list[grain.DatasetIterator]):
    """Closes and forgets them: Grain's complain if they are still there at Python's very end."""
    while iterators:
        iterators.pop().close()


def _cores() -> int:
    """Cores this process may use, which a scheduler can have set below the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit_opencv():
    """OpenCV works in the calling thread, as our threads fill the cores, and prints nothing.

    Both hold for the process. It would report each unknown tag of a GeoTIFF; files that it
    cannot read are reported as bad examples.
    """
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _start_worker(*_):
    """A worker outlives signals meant for the run, which stops it, but never the run itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _limit_opencv()


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
