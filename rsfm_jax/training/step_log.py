"""What becomes of a step's metrics: logged one step late, and watched for what is not finite."""

import logging
from typing import Any

import jax
import numpy as np

from rsfm_jax.errors import RunError
from rsfm_jax.sharding.hardware import peak_flops
from rsfm_jax.training.clock import Clock
from rsfm_jax.training.report import Reporter

log = logging.getLogger(__name__)


class NonFiniteError(RunError):
    """Too many steps in a row had a loss or gradient that is not finite.

    Attributes:
      step: finished steps, with those that were skipped.
    """

    def __init__(self, step: int, row: int, example_ids: np.ndarray):
        super().__init__(
            f"step {step}: {row} steps in a row were not finite; this batch's examples: "
            f"{example_ids.tolist()}"
        )
        self.step = step


def due(step: int, every: int) -> bool:
    """Whether something that happens `every` steps happens now; 0 leaves it to the end."""
    return every > 0 and step % every == 0


class StepLog:
    """Logs every step one step late, and stops a run whose steps are not finite."""

    def __init__(
        self, reporter: Reporter, clock: Clock, batches: Any, config: Any, flops_per_image: int
    ):
        self._reporter, self._clock, self._batches = reporter, clock, batches
        self._config, self._flops_per_image = config, flops_per_image
        self._pending: tuple[int, Any, np.ndarray] | None = None

    def done(self, step: int, metrics: Any, example_ids: np.ndarray) -> None:
        """Takes a dispatched step's metrics and handles those of the one before."""
        self.flush()
        self._pending = step, metrics, example_ids

    def flush(self) -> None:
        """Waits for the pending step's metrics; raises `NonFiniteError` past the limit."""
        if self._pending is None:
            return
        step, metrics, example_ids = self._pending
        self._pending = None
        metrics = jax.device_get(metrics)
        self._clock.tick()
        self._reporter.progress(step)
        row = int(metrics["skipped_in_a_row"])
        if row:
            log.warning("step %d is not finite and skipped, %d in a row", step, row)
        if row >= self._config.nonfinite_limit:
            raise NonFiniteError(step, row, example_ids)
        if step == self._config.total_steps or due(step, self._config.log_every_steps):
            self._reporter.write(step, metrics | self._speed(step))

    def _speed(self, step: int) -> dict[str, float]:
        steps_a_second, data_wait = self._clock.read()
        images = steps_a_second * self._config.batch_size
        speed = {
            "images_per_second": images,
            "data_wait": data_wait,
            "seconds_left": (self._config.total_steps - step) / steps_a_second,
            "bad_examples": self._batches.bad_examples,
        }
        if memory := jax.local_devices()[0].memory_stats():  # CPUs have none
            speed["memory_gib"] = memory["peak_bytes_in_use"] / 2**30
        peak = peak_flops(jax.devices()[0])
        if peak:
            speed["mfu"] = images * self._flops_per_image / (peak * jax.device_count())
        return speed
