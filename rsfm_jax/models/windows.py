"""Tokens of a grid of patches, cut into windows that do not overlap."""

import jax
import jax.numpy as jnp
from einops import rearrange

Grid = tuple[int, int]  # (rows, columns) of patches


def split_windows(x: jax.Array, grid: Grid, window: Grid) -> jax.Array:
    """[B, rows*columns, ...] -> [B*windows, window rows*window columns, ...].

    Zeros are added below and on the right where windows do not divide the grid.
    """
    x = rearrange(x, "b (r c) ... -> b r c ...", r=grid[0])
    missing = [(0, -count % side) for count, side in zip(grid, window, strict=True)]
    x = jnp.pad(x, [(0, 0), *missing, *[(0, 0)] * (x.ndim - 3)])
    pattern = "b (i r) (j c) ... -> (b i j) (r c) ..."
    return rearrange(x, pattern, r=window[0], c=window[1])


def join_windows(windows: jax.Array, grid: Grid, window: Grid) -> jax.Array:
    """Inverse of `split_windows`: what was added is dropped."""
    down, across = (-(-count // side) for count, side in zip(grid, window, strict=True))
    pattern = "(b i j) (r c) ... -> b (i r) (j c) ..."
    x = rearrange(windows, pattern, i=down, j=across, r=window[0])
    return rearrange(x[:, : grid[0], : grid[1]], "b r c ... -> b (r c) ...")
