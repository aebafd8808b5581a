"""Normalisation from the figures that `python -m data_prep stats` writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from rsfm_jax.errors import UserError


def apply_statistics(config: Any) -> None:
    """Sets `config.data.mean|std` (0..1 scale) from the file `config.data.statistics`, if any.

    Raises:
      UserError: no such file, or not one of `data_prep stats`.
    """
    file = config.data.statistics
    if not file:
        return
    try:
        statistics = json.loads(Path(file).read_text())
        mean, std = (tuple(x / 255 for x in statistics[key]) for key in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"config.data.statistics={file}: give a stats_SPLIT.json of `python -m data_prep "
            f"stats` ({type(error).__name__}: {error})"
        ) from error
    numbers = np.array(mean + std, np.float64)
    if not (len(mean) == len(std) == 3 and np.isfinite(numbers).all() and min(std) > 0):
        raise UserError(f"config.data.statistics={file}: needs mean and std of three bands")
    config.data.mean, config.data.std = mean, std
