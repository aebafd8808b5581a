"""Honest speed: training time without pauses, and how much of it waits for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Time spent training and waiting for data since the last reading."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Starts a new interval."""
        self._start, self._paused, self._waited, self._steps = time.perf_counter(), 0.0, 0.0, 0

    def tick(self) -> None:
        """One more step is done."""
        self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around evaluation and saving: not training time."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for the next batch."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def read(self) -> tuple[float, float]:
        """(steps a second, share of the time waited for data) of this interval."""
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        reading = self._steps / seconds, self._waited / seconds
        self.restart()
        return reading
