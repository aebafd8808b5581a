"""The loader that a config describes, the same for every task."""

from typing import Any

import numpy as np

from rsfm_jax.data.elements import Transform
from rsfm_jax.data.loader import Loader
from rsfm_jax.data.sources import Source


def load_batches(
    config: Any, source: Source, transform: Transform, rows: np.ndarray, start_step: int
) -> Loader:
    """This process's rows of every batch of transformed examples, from `start_step` on."""
    data = config.data
    return Loader(
        source,
        transform=transform,
        batch_size=config.batch_size,
        rows=rows,
        seed=config.seed,
        start_step=start_step,
        fraction=data.fraction,
        threads=data.threads or None,
        workers=data.workers,
        max_bad_fraction=data.max_bad_fraction,
    )
