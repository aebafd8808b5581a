"""UPerNet (Xiao et al. 2018, arXiv 1807.10221) on ViTDet, with an auxiliary FCN head.

Definitions of mmsegmentation's `uper_head`, `psp_head` and `fcn_head`. Every convolution is
followed by batch norm, as in the published recipes, where it is synchronised over the GPUs.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsfm_jax.models.convolution import BatchNorm, Conv
from rsfm_jax.models.layers import Dtype
from rsfm_jax.models.pyramid import ScaleBlocks, scale_blocks
from rsfm_jax.models.resampling import adaptive_average_pool, resize_bilinear
from rsfm_jax.models.vitdet import ViTDet, ViTDetConfig

POOL_BINS = (1, 2, 3, 6)
DROPOUT = 0.1  # of whole channels before the classifier
# mmcv's `ConvModule`: Kaiming normal over the outputs; mmsegmentation's `conv_seg`.
CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
CLASSIFIER_INIT = nn.initializers.normal(0.01)


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    features: int
    side: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        """x [B, H, W, C] -> [B, H, W, features]."""
        conv = Conv(self.features, self.side, self.dtype, bias=False, init=CONV_INIT, name="conv")
        norm = BatchNorm(self.dtype, name="norm")
        return jax.nn.relu(norm(conv(x), deterministic))


class Classifier(nn.Module):
    """Drops channels, then scores every pixel in float32."""

    num_classes: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        """x [B, H, W, C] -> logits [B, H, W, num_classes] float32."""
        x = nn.Dropout(DROPOUT, broadcast_dims=(1, 2))(x, deterministic)
        conv = Conv(self.num_classes, 1, self.dtype, init=CLASSIFIER_INIT, name="conv")
        return conv(x).astype(jnp.float32)


class UPerHead(nn.Module):
    """Pyramid pooling of the coarsest map, a top-down path, and all scales together."""

    num_classes: int
    channels: int = 512
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: list[jax.Array], deterministic: bool = True) -> jax.Array:
        """Maps [B, ., ., C], finest first -> logits of the finest map's size.

        `deterministic=False` uses the batch's statistics, updates the running ones
        (collection `batch_stats`) and drops channels (rng stream `dropout`).
        """

        def layer(name: str, x: jax.Array, side: int) -> jax.Array:
            return ConvNormReLU(self.channels, side, self.dtype, name=name)(x, deterministic)

        coarse = maps[-1]
        pooled = [coarse.astype(self.dtype)]
        for bins in POOL_BINS:
            x = layer(f"pool{bins}", adaptive_average_pool(coarse, bins), 1)
            pooled.append(resize_bilinear(x, coarse.shape[1:3]))
        x = layer("pyramid_pooling", jnp.concatenate(pooled, axis=-1), 3)
        merged = [x]
        for i in reversed(range(len(maps) - 1)):
            x = layer(f"lateral{i}", maps[i], 1) + resize_bilinear(x, maps[i].shape[1:3])
            merged.append(layer(f"smooth{i}", x, 3))
        merged = [resize_bilinear(x, maps[0].shape[1:3]) for x in reversed(merged)]
        x = layer("fuse", jnp.concatenate(merged, axis=-1), 3)
        return Classifier(self.num_classes, self.dtype, name="classifier")(x, deterministic)


class FCNHead(nn.Module):
    """One convolution and a classifier on one map: the auxiliary loss's head."""

    num_classes: int
    channels: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        """Map [B, h, w, C] -> logits [B, h, w, num_classes]."""
        x = ConvNormReLU(self.channels, 3, self.dtype, name="conv")(x, deterministic)
        return Classifier(self.num_classes, self.dtype, name="classifier")(x, deterministic)


class SegmentationLogits(NamedTuple):
    """Float32 scores per class, to be resized to the labels."""

    main: jax.Array  # [B, H/4, W/4, num_classes]
    auxiliary: jax.Array  # [B, H/16, W/16, num_classes], for the training loss only


class UPerNet(nn.Module):
    """Images to class scores: ViTDet, scale blocks on four of its maps, and both heads."""

    backbone: ViTDetConfig
    num_classes: int
    channels: int = 512
    auxiliary_channels: int = 256

    @nn.compact
    def __call__(self, images: jax.Array, deterministic: bool = True) -> SegmentationLogits:
        """Images [B, H, W, 3], normalised -> logits.

        `deterministic=False` needs the rng streams `drop_path` and `dropout`, and the mutable
        collection `batch_stats`.
        """
        encoder = self.backbone.encoder
        dtype = encoder.dtype
        maps = ViTDet(self.backbone, name="encoder")(images, deterministic)
        maps = [maps[i] for i in scale_blocks(encoder.size.depth)]
        maps = ScaleBlocks(dtype, name="scales")(maps)
        main = UPerHead(self.num_classes, self.channels, dtype, name="head")
        auxiliary = FCNHead(self.num_classes, self.auxiliary_channels, dtype, name="auxiliary")
        # The auxiliary head sees the third map, of stride 16 (mmsegmentation's `in_index=2`).
        return SegmentationLogits(main(maps, deterministic), auxiliary(maps[2], deterministic))
