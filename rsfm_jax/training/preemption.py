"""Stopping cleanly: SIGTERM or Ctrl-C asks, the loop saves and leaves."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run was asked to stop and has saved a checkpoint (exit status 75)."""


class StopSignal:
    """Whether SIGTERM or SIGINT has come; the same signal again ends the process at once.

    With several processes JAX's own preemption service listens for SIGTERM and makes all of
    them stop at the same step; SIGINT then ends a process at once.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> "StopSignal":
        self._asked = threading.Event()
        self._replaced = {}
        signals = self.SIGNALS if jax.process_count() == 1 else ()
        for number in signals:
            self._replaced[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()
        signal.signal(number, signal.SIG_DFL)

    def asked(self, step: int) -> bool:
        """Whether to stop before `step`; the same answer on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked.is_set()
