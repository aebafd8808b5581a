"""Decomposed relative positions (MViTv2, ViTDet) without an N x N bias.

A query q at (y, x) adds q.R[y - y'] + q.C[x - x'] to its score with a key at (y', x'). The
sum over all rows y' of q.R[y - y'] * [key is in row y'] is a product, so queries carry their
q.R and q.C as extra channels and keys carry the one-hot numbers of their row and column: any
attention kernel then adds the bias by itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from rsfm_jax.models.windows import Grid


def fold_relative_positions(
    q: jax.Array, k: jax.Array, row_table: jax.Array, column_table: jax.Array, grid: Grid
) -> tuple[jax.Array, jax.Array]:
    """Widens queries and keys so that their products carry the relative positions.

    Args:
      q: [B, N, P*H, E] queries of N = rows*columns tokens, in P branches of H heads.
      k: [B, N, P*H, E] keys.
      row_table: [2*rows-1, P, E] embedding of the distances -(rows-1)..rows-1 down the grid;
        a table made for another grid is resized linearly, as detectron2's `get_rel_pos`.
      column_table: the same across the grid.
      grid: (rows, columns).

    Returns:
      Queries and keys [B, N, P*H, E+rows+columns]: their product times 1/sqrt(E) is the score.
    """
    rows, columns = grid
    branches, width = row_table.shape[1:]
    cells = rearrange(q, "b (y x) (p h) e -> b y x p h e", y=rows, p=branches)
    down = jnp.einsum("byxphe,yjpe->byxphj", cells, _by_distance(row_table, rows, q.dtype))
    across = jnp.einsum("byxphe,xjpe->byxphj", cells, _by_distance(column_table, columns, q.dtype))
    # The bias is of the unscaled query: undo the scaling of the scores.
    bias = jnp.concatenate([down, across], axis=-1) * width**0.5
    bias = rearrange(bias, "b y x p h j -> b (y x) (p h) j")

    y, x = np.divmod(np.arange(rows * columns), columns)
    place = np.concatenate([np.eye(rows)[y], np.eye(columns)[x]], axis=1)  # [N, rows+columns]
    places = jnp.broadcast_to(jnp.asarray(place, k.dtype)[:, None], bias.shape)
    return jnp.concatenate([q, bias], axis=-1), jnp.concatenate([k, places], axis=-1)


def _by_distance(table: jax.Array, length: int, dtype: jnp.dtype) -> jax.Array:
    """[distances, P, E] -> [length, length, P, E]: the embedding of query i, key j."""
    if table.shape[0] != 2 * length - 1:
        shape = (2 * length - 1, *table.shape[1:])
        table = jax.image.resize(table, shape, "linear", antialias=False)
    position = np.arange(length)
    return table[position[:, None] - position + length - 1].astype(dtype)
