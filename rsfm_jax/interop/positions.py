"""Position tables of foreign files: our models have MAE's fixed sine-cosine and no other."""

import math

import numpy as np

from rsfm_jax.errors import UserError
from rsfm_jax.models.vit import sincos_positions

# MAE computes its table in float64 and stores float32; ours is computed in float32. Half
# precision files round it to 5e-4.
TOLERANCE = 1e-3


def position_table(side: int, width: int, class_token: bool) -> np.ndarray:
    """MAE's table [1, (1+)side*side, width]; the class token's row is zero."""
    table = np.asarray(sincos_positions((side, side), width))
    if class_token:
        table = np.concatenate([np.zeros((1, width), np.float32), table])
    return table[None]


def take_grid_side(tensors: dict[str, np.ndarray], name: str, source: str) -> int:
    """Removes the table `name` from `tensors` and gives its grid's side in patches.

    Raises:
      UserError: no such table, or one that our models cannot have.
    """
    if name not in tensors:
        raise UserError(f"{source}: weight {name} is missing")
    table = tensors.pop(name)
    tokens = table.shape[1] if table.ndim == 3 else 0
    side = math.isqrt(max(tokens - 1, 0))
    if table.shape[0] != 1 or side < 1 or side * side + 1 != tokens or table.shape[2] % 4:
        raise UserError(
            f"{source}: {name} is {table.shape}, not [1, 1 + side * side, width]: a class token "
            "and a square grid"
        )
    width = table.shape[2]
    ours = position_table(side, width, class_token=True)
    difference = np.abs(table - ours).max()
    if not difference <= TOLERANCE:
        rows_first = np.roll(ours, width // 2, axis=2)
        if np.abs(table - rows_first).max() <= TOLERANCE:
            kind = "a sine-cosine table with the rows' half first; MAE's has the columns' half"
        elif not table.any():
            kind = "all zero: a model that was made but not loaded"
        else:
            kind = f"learned (it differs by up to {difference:.3g})"
        raise UserError(
            f"{source}: {name} is not MAE's fixed sine-cosine table, which models here have, but "
            f"{kind}"
        )
    return side
