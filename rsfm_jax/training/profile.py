"""A trace of some training steps, to look at in xprof or TensorBoard."""

import logging
from pathlib import Path
from typing import Any

import jax

from rsfm_jax.errors import UserError

log = logging.getLogger(__name__)


class Profile:
    """Traces steps [first, last) of a run into a folder; called before every step.

    Steps are counted as they are logged, from 1: `10:13` traces the 10th, 11th and 12th.
    """

    def __init__(self, folder: Path, steps: str = ""):
        """`steps` is FIRST:LAST, or empty for none.

        Raises:
          UserError: anything else, or no step between the two.
        """
        self._folder, self._on = folder, False
        first, colon, last = (steps or "0:0").partition(":")
        if not (first.isdigit() and colon and last.isdigit()) or steps and int(first) >= int(last):
            raise UserError(f"--profile_steps={steps}: give FIRST:LAST, such as 10:13")
        self._steps = range(int(first), int(last))

    def before(self, step: int, state: Any) -> None:
        """Starts or ends the trace; waits for `state`, so that earlier steps stay outside."""
        if (step in self._steps) == self._on:
            return
        jax.block_until_ready(state)
        if self._on:
            self.close()
        else:
            self._on = True
            jax.profiler.start_trace(str(self._folder))

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
            log.info("a trace of the steps is in %s", self._folder)
