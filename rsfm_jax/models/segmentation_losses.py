"""The loss of semantic segmentation."""

import jax
import jax.numpy as jnp
import optax

from rsfm_jax.models.resampling import resize_bilinear
from rsfm_jax.models.upernet import SegmentationLogits

AUXILIARY_WEIGHT = 0.4  # of the FCN head, as mmsegmentation's UPerNet configs


def segmentation_loss(
    logits: SegmentationLogits, labels: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross entropy of both heads at the labels' size.

    Args:
      logits: of both heads, of C classes, at their own sizes.
      labels: uint8 [B, H, W], in 0 .. C - 1 where they count.

    Returns:
      The loss, and scalars to log: both heads' parts and the share of the pixels that count
      whose class is right.
    """
    main = resize_bilinear(logits.main, labels.shape[1:])
    auxiliary = resize_bilinear(logits.auxiliary, labels.shape[1:])
    main_loss, auxiliary_loss = (pixel_cross_entropy(x, labels) for x in (main, auxiliary))
    counted = labels < main.shape[-1]
    right = (main.argmax(-1) == labels) & counted
    metrics = {
        "main_loss": main_loss,
        "auxiliary_loss": auxiliary_loss,
        "pixel_accuracy": right.sum() / jnp.maximum(counted.sum(), 1),
    }
    return main_loss + AUXILIARY_WEIGHT * auxiliary_loss, metrics


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over all pixels, those that do not count included with 0: [B, H, W, C], [B, H, W].

    The mean of the published recipes, mmsegmentation's `avg_non_ignore=False`. A batch in which
    no pixel counts has loss 0.
    """
    counted = labels < logits.shape[-1]
    errors = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counted, labels, 0))
    return jnp.where(counted, errors, 0.0).mean()
