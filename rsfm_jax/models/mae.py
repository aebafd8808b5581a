"""Masked autoencoder on the parallel ViT (He et al. 2021; reference `models_mae.py`)."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.models.layers import Linear, declare
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.vit import Blocks, ViT, ViTConfig, patch_grid, patchify, sincos_positions
from rsfm_jax.sharding.rules import constrain


@dataclasses.dataclass(frozen=True)
class MAEConfig:
    """Encoder, decoder and target.

    Attributes:
      encoder: the model to pretrain.
      mask_ratio: share of hidden patches, in (0, 1); 0.75 in the paper.
      decoder: width, depth and heads; 512 x 8 with 16 heads in MAE.
      decoder_class_token: whether the decoder sees the class token. Without it the decoder's
        length is even, which cuDNN's attention needs; MAE's reference keeps it.
      normalize_targets: predict each patch's pixels minus its mean, over its deviation.
    """

    encoder: ViTConfig
    mask_ratio: float = 0.75
    decoder: ViTSize = ViTSize(width=512, depth=8, num_heads=16, mlp_dim=2048)
    decoder_class_token: bool = True
    normalize_targets: bool = True


class Mask(NamedTuple):
    """Which patches the encoder sees: drawn by `draw_mask`."""

    visible: jax.Array  # [B, K] int32 patch numbers, in the order of their noise
    slot: jax.Array  # [B, N] int32 rank of every patch; hidden where slot >= K

    @property
    def hidden(self) -> jax.Array:
        """[B, N] float32, 1 where the patch is hidden."""
        return (self.slot >= self.visible.shape[1]).astype(jnp.float32)


def draw_mask(noise: jax.Array | np.ndarray, mask_ratio: float) -> Mask:
    """Keeps the patches with the smallest noise [B, N]; int(N * (1 - ratio)) of them."""
    order = jnp.argsort(noise, axis=1)
    num_visible = int(noise.shape[1] * (1 - mask_ratio))
    return Mask(order[:, :num_visible], jnp.argsort(order, axis=1))


class MAE(nn.Module):
    """Predicts the hidden patches of square images from the visible ones."""

    config: MAEConfig

    @nn.compact
    def __call__(
        self, images: jax.Array, mask: Mask, deterministic: bool = True
    ) -> jax.Array:
        """images [B, H, W, 3] (normalised), mask -> predicted patches [B, N, p*p*3] float32."""
        config = self.config
        encoder, decoder = config.encoder, config.decoder
        grid = patch_grid(images, encoder.patch_size)
        # Gathering raw pixels first embeds only what is seen and needs no gradient.
        patches = patchify(images, encoder.patch_size)
        patches = jnp.take_along_axis(patches, mask.visible[..., None], axis=1)
        positions = sincos_positions(grid, encoder.size.width)[mask.visible]  # [B, K, D]
        encoded = ViT(encoder, name="encoder")(patches, positions, deterministic)

        x = Linear(decoder.width, ("embed", None), encoder.dtype, name="decoder_embed")(encoded)
        token = declare(
            self,
            "mask_token",
            nn.initializers.normal(0.02),
            (1, 1, decoder.width),
            (None, None, "vector"),
        )
        full = unshuffle(x[:, 1:], token.astype(x.dtype), mask)
        full = full + sincos_positions(grid, decoder.width).astype(x.dtype)
        if config.decoder_class_token:
            full = jnp.concatenate([x[:, :1], full], axis=1)
        full = constrain(full, "batch", None, None)
        run = dataclasses.replace(encoder, size=decoder, drop_path=0.0)
        full = Blocks(run, name="decoder")(full)
        if config.decoder_class_token:
            full = full[:, 1:]
        pixels = encoder.patch_size**2 * images.shape[-1]
        head = Linear(pixels, ("embed", None), encoder.dtype, name="prediction")
        return head(full).astype(jnp.float32)


def unshuffle(visible: jax.Array, mask_token: jax.Array, mask: Mask) -> jax.Array:
    """Puts visible tokens [B, K, D] back in place [B, N, D], the mask token elsewhere.

    A one-hot product, exact in any precision (each row has at most one 1): its backward pass
    is a product too, where a gather's would be a scatter.
    """
    rows = jax.nn.one_hot(mask.slot, visible.shape[1], dtype=visible.dtype)  # [B, N, K]
    placed = jnp.einsum("bnk,bkd->bnd", rows, visible, precision=jax.lax.Precision.HIGHEST)
    return placed + mask.hidden[..., None].astype(visible.dtype) * mask_token


def targets(images: jax.Array, config: MAEConfig) -> jax.Array:
    """What is to be predicted: patches [B, N, p*p*3] float32 of the images."""
    patches = patchify(images.astype(jnp.float32), config.encoder.patch_size)
    if not config.normalize_targets:
        return patches
    mean, deviation = patch_statistics(patches)
    return (patches - mean) / deviation


def patch_statistics(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation [B, N, 1]; variance unbiased plus 1e-6, as the reference (torch)."""
    mean = patches.mean(-1, keepdims=True)
    variance = patches.var(-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + 1e-6)


def reconstruction_loss(predicted: jax.Array, target: jax.Array, mask: Mask) -> jax.Array:
    """Mean squared error over the hidden patches: predicted, target [B, N, F] -> scalar."""
    errors = jnp.square(predicted - target).mean(-1)  # [B, N]
    return (errors * mask.hidden).sum() / mask.hidden.sum()
