"""The pretrained parallel ViT as a dense backbone (ViTDet, Li et al. 2022, arXiv 2203.16527).

Weights keep the names and shapes of `rsfm_jax.models.vit.ViT`, so an MAE encoder's load
unchanged. As in detectron2's ViTDet two of them are not used and therefore not here: the class
token, which has no place in a window, and the final norm, since the scale blocks bring their
own. New are only the relative positions, which start at zero.
"""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
from einops import rearrange

from rsfm_jax.errors import UserError
from rsfm_jax.models.attention import attention
from rsfm_jax.models.layers import Linear, declare
from rsfm_jax.models.relative_positions import fold_relative_positions
from rsfm_jax.models.vit import (
    ParallelAttention,
    ParallelBlock,
    ViTConfig,
    patch_grid,
    patchify,
    rematerialised,
    sincos_positions,
)
from rsfm_jax.models.windows import Grid, join_windows, split_windows
from rsfm_jax.sharding.rules import constrain

RELATIVE_POSITIONS = ("relative_rows", "relative_columns")  # weights that no plain ViT has


@dataclasses.dataclass(frozen=True)
class ViTDetConfig:
    """A pretrained encoder and the grids of patches that it works on.

    Attributes:
      encoder: size, patch size, drop path and how to run it.
      grid: (rows, columns) of the training image. Global blocks have relative positions for
        every distance in it; images of another grid get them resized.
      window: side of the windows in patches; 14 in ViTDet.
      pretrained_grid: whose position embedding is stretched over the image; 224 px images in
        patches of 16 in the paper.
    """

    encoder: ViTConfig
    grid: Grid
    window: int = 14
    pretrained_grid: Grid = (14, 14)


def global_blocks(depth: int) -> tuple[int, ...]:
    """The last block of every quarter: 2, 5, 8, 11 of 12, as ViTDet."""
    return tuple(-(-depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4))


class SpatialAttention(ParallelAttention, kw_only=True):  # type: ignore[call-arg]
    """Attention inside windows of a grid, with relative positions per branch.

    Attributes:
      grid: (rows, columns) of the image.
      window: (rows, columns) of a window; the grid itself for global attention.
      trained_window: the window that the relative positions are declared for.
    """

    grid: Grid
    window: Grid
    trained_window: Grid

    def mix(self, qkv: jax.Array, bias: jax.Array) -> jax.Array:
        """Qkv [B, N, 3, P*H, E], not yet biased -> [B, N, P*H, E].

        Padding the unbiased products with zeros is ViTDet's padding after the norm, where
        padded tokens take part with their bias, without its cost in the products.
        """
        qkv = split_windows(qkv, self.grid, self.window) + bias  # [B*windows, n, 3, P*H, E]
        rows, columns = (
            declare(
                self,
                name,
                nn.initializers.zeros,
                (2 * count - 1, self.size.num_branches, self.size.head_dim),
                (None, None, "vector"),
            )
            for name, count in zip(RELATIVE_POSITIONS, self.trained_window, strict=True)
        )
        q, k = fold_relative_positions(qkv[:, :, 0], qkv[:, :, 1], rows, columns, self.window)
        mixed = attention(q, k, qkv[:, :, 2], self.attention)
        return join_windows(mixed, self.grid, self.window)


class SpatialBlocks(nn.Module):
    """The encoder's blocks in windows, global in the last of every quarter."""

    config: ViTDetConfig

    @nn.compact
    def __call__(self, x: jax.Array, grid: Grid, deterministic: bool) -> list[jax.Array]:
        """x [B, N, D] of a grid's N patches -> [B, N, D] after every block."""
        encoder = self.config.encoder
        block = rematerialised(ParallelBlock, encoder.remat)
        window = (self.config.window, self.config.window)
        whole = {"grid": grid, "window": grid, "trained_window": self.config.grid}
        windowed = {"grid": grid, "window": window, "trained_window": window}
        outputs = []
        for i in range(encoder.size.depth):
            spatial = whole if i in global_blocks(encoder.size.depth) else windowed
            layer = partial(SpatialAttention, **spatial)
            rate = encoder.block_drop_path(i)
            x = block(encoder, rate, layer, name=f"block{i}")(x, deterministic)
            outputs.append(x)
        return outputs


class ViTDet(nn.Module):
    """Images to one stride-`patch_size` map after every block."""

    config: ViTDetConfig

    @nn.compact
    def __call__(self, images: jax.Array, deterministic: bool = True) -> list[jax.Array]:
        """Encodes whole images of any size that patches divide.

        Args:
          images: [B, H, W, C] normalised pixels.
          deterministic: False applies drop path, from the rng stream `drop_path`.

        Returns:
          `depth` maps [B, H/p, W/p, D]: the residual stream after every block, not normed.

        Raises:
          UserError: height or width is not a multiple of the patch size.
        """
        encoder = self.config.encoder
        width, patch_size = encoder.size.width, encoder.patch_size
        if images.shape[1] % patch_size or images.shape[2] % patch_size:
            raise UserError(
                f"image of {images.shape[1]}x{images.shape[2]} pixels: pad it to a multiple of "
                f"config.model.patch_size={patch_size}"
            )
        grid = patch_grid(images, patch_size)
        patches = patchify(images, patch_size)
        x = Linear(width, (None, "embed"), encoder.dtype, name="patch_embed")(patches)
        x = x + sincos_positions(grid, width, self.config.pretrained_grid).astype(encoder.dtype)
        x = constrain(x, "batch", None, None)
        outputs = SpatialBlocks(self.config, name="blocks")(x, grid, deterministic)
        return [rearrange(x, "b (r c) d -> b r c d", r=grid[0]) for x in outputs]
