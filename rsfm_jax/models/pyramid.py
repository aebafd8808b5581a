"""The scale blocks between a ViT's stride-16 maps and the heads.

Detection follows ViTDet: one map, five levels of 256 channels. Segmentation follows BEiT, RVSA
and MTP: four blocks' maps, four levels of the ViT's own width, which UPerNet merges itself.
Both upsample alike. Norms are layer norms over channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsfm_jax.models.convolution import Conv, TransposedConv
from rsfm_jax.models.layers import Dtype, LayerNorm, gelu


def scale_blocks(depth: int) -> tuple[int, ...]:
    """Blocks whose maps segmentation takes: 3, 5, 7, 11 of 12 (7, 11, 15, 23 of 24, as MTP)."""
    return tuple(-(-depth * share // 6) - 1 for share in (2, 3, 4, 6))


def pyramid_strides(patch_size: int) -> tuple[int, ...]:
    """Pixels a cell of `SimpleFeaturePyramid`'s five maps; 4 to 64 for patches of 16."""
    return (patch_size // 4, patch_size // 2, patch_size, 2 * patch_size, 4 * patch_size)


class Upsample4(nn.Module):
    """Transposed convolution, layer norm, GELU, transposed convolution: four times the size."""

    features: tuple[int, int]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, h, w, C] -> [B, 4h, 4w, features[1]]."""
        x = TransposedConv(self.features[0], self.dtype, name="up1")(x)
        x = gelu(LayerNorm(self.dtype, name="norm")(x))
        return TransposedConv(self.features[1], self.dtype, name="up2")(x)


class SimpleFeaturePyramid(nn.Module):
    """ViTDet's pyramid (detectron2 `SimpleFeaturePyramid` with `LastLevelMaxPool`)."""

    channels: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Stride-16 map [B, h, w, D] -> maps [B, ., ., channels] of strides 4, 8, 16, 32, 64."""
        width = x.shape[-1]
        levels = [
            Upsample4((width // 2, width // 4), self.dtype, name="up_p2")(x),
            TransposedConv(width // 2, self.dtype, name="up_p3")(x),
            x,
            halve(x),
        ]
        for i, level in enumerate(levels):
            stage = f"p{i + 2}"
            y = Conv(self.channels, 1, self.dtype, bias=False, name=f"{stage}_reduce")(level)
            y = LayerNorm(self.dtype, name=f"{stage}_reduce_norm")(y)
            y = Conv(self.channels, 3, self.dtype, bias=False, name=f"{stage}_smooth")(y)
            levels[i] = LayerNorm(self.dtype, name=f"{stage}_smooth_norm")(y)
        return [*levels, levels[-1][:, ::2, ::2]]


class ScaleBlocks(nn.Module):
    """Four maps of one scale to four scales (BEiT, RVSA, MTP)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> list[jax.Array]:
        """Four stride-16 maps [B, h, w, D] -> strides 4, 8, 16, 32, all D channels wide."""
        width = maps[0].shape[-1]
        return [
            Upsample4((width, width), self.dtype, name="up4")(maps[0]),
            TransposedConv(width, self.dtype, name="up2")(maps[1]),
            maps[2],
            halve(maps[3]),
        ]


def halve(x: jax.Array) -> jax.Array:
    """Maximum of every 2x2 pixels; an odd last row or column is kept, unlike torch's default."""
    return nn.max_pool(x, (2, 2), (2, 2), padding="SAME")
