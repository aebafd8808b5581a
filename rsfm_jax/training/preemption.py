"""Stopping cleanly: SIGTERM or Ctrl-C asks, the loop saves and leaves."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run was asked to stop and has saved a checkpoint (exit status 75)."""


class Interrupted(BaseException):
    """A signal asks to save now; passes through whatever catches exceptions."""


class StopSignal:
    """Whether SIGTERM or SIGINT has come; the next signal ends the process at once.

    With several processes JAX's own preemption service listens for SIGTERM and makes all of
    them stop at the same step; SIGINT is passed on to it.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> "StopSignal":
        self._asked, self._interrupts = False, False
        self._alone = jax.process_count() == 1
        signals = self.SIGNALS if self._alone else (signal.SIGINT,)
        self._replaced = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        for replaced in self._replaced:
            signal.signal(replaced, signal.SIG_DFL)
        if not self._alone:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self._interrupts:
            raise Interrupted

    def check(self, step: int) -> None:
        """Raises `Interrupted` where a signal has come, before the same step on every process."""
        if self._asked if self._alone else multihost_utils.reached_preemption_sync_point(step):
            raise Interrupted

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Around what may be left half done and can last, such as an evaluation.

        Only a lone process is interrupted: of several, the others would wait for it for ever.
        """
        self._interrupts = True
        try:
            if self._alone and self._asked:
                raise Interrupted
            yield
        finally:
            self._interrupts = False
