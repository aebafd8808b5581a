"""The numerical check of a conversion: both sides see the same seeded image.

Ours runs on the CPU in float32, as do the torch models.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.errors import UserError
from rsfm_jax.interop.names import Layout
from rsfm_jax.interop.truths import MASK_RATIO, Unavailable
from rsfm_jax.models.mae import MAE, MAEConfig, draw_mask
from rsfm_jax.models.vit import ViT, ViTConfig, patchify, sincos_positions
from rsfm_jax.sharding.rules import unbox

# Of the largest output. Sums in another order differ by 1e-6 of it in a fresh 12-layer encoder of
# width 768; swapping queries and keys of its last block alone by 5e-3, most mistakes by over 0.1.
LIMIT = 1e-4

Truth = Callable[[], tuple[str, np.ndarray]]


def seeded_image(size: int) -> np.ndarray:
    """[1, size, size, 3] float32 standard normal numbers, always the same."""
    return np.random.default_rng(0).standard_normal((1, size, size, 3), np.float32)


def seeded_noise(num_patches: int) -> np.ndarray:
    """[1, N] float32 in [0, 1), always the same: chooses the visible patches."""
    return np.random.default_rng(1).random((1, num_patches), np.float32)


def abstract_params(layout: Layout) -> Any:
    """Shapes of our tree; image size is no matter, as positions are no weights."""
    config = ViTConfig(layout.encoder, layout.patch_size)
    if layout.decoder is None:
        patches = jnp.zeros((1, 4, 3 * layout.patch_size**2))
        positions = jnp.zeros((4, layout.encoder.width))
        boxed = jax.eval_shape(ViT(config).init, jax.random.key(0), patches, positions)
        return {"encoder": unbox(boxed)["params"]}
    images = jnp.zeros((1, 2 * layout.patch_size, 2 * layout.patch_size, 3))
    mask = draw_mask(np.zeros((1, 4), np.float32), 0.5)
    model = MAE(MAEConfig(config, decoder=layout.decoder))
    return unbox(jax.eval_shape(model.init, jax.random.key(0), images, mask))["params"]


def our_features(encoder: Any, layout: Layout, images: np.ndarray) -> np.ndarray:
    """Class token and patches [B, 1+N, D] of the encoder's weights run as a plain ViT."""
    model = ViT(ViTConfig(layout.encoder, layout.patch_size))
    side = images.shape[1] // layout.patch_size

    @jax.jit
    def features(encoder: Any, images: jax.Array) -> jax.Array:
        positions = sincos_positions((side, side), layout.encoder.width)
        return model.apply({"params": encoder}, patchify(images, layout.patch_size), positions)

    return np.asarray(features(encoder, jnp.asarray(images)))


def our_pixels(params: Any, layout: Layout, images: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Patches [B, N, p*p*3] that the MAE predicts from those that `noise` leaves visible."""
    assert layout.decoder is not None
    encoder = ViTConfig(layout.encoder, layout.patch_size)
    model = MAE(MAEConfig(encoder, mask_ratio=MASK_RATIO, decoder=layout.decoder))

    @jax.jit
    def pixels(params: Any, images: jax.Array) -> jax.Array:
        return model.apply({"params": params}, images, draw_mask(noise, MASK_RATIO))

    return np.asarray(pixels(params, jnp.asarray(images)))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One output of both sides: a line for the reader."""

    what: str
    truth: str
    difference: float
    largest: float

    def __str__(self) -> str:
        share = self.difference / self.largest
        return (
            f"check: {self.what}: ours against {self.truth}: largest difference "
            f"{self.difference:.2e} of values up to {self.largest:.3g} ({share:.1e}, limit "
            f"{LIMIT:.0e})"
        )


def compare(what: str, ours: np.ndarray, *truths: Truth) -> str:
    """Holds our output against the first of `truths` that is available; the line to print.

    Raises:
      UserError: the two disagree, or are not finite.
    """
    missing = []
    for truth in truths:
        try:
            who, theirs = truth()
        except Unavailable as error:
            missing.append(str(error))
            continue
        result = Comparison(
            what, who, float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())
        )
        # Written so that a NaN disagrees.
        if not result.difference <= LIMIT * result.largest:
            raise UserError(f"{result}; they disagree, so nothing was written")
        notes = f"; not asked: {'; '.join(missing)}" if missing else ""
        return f"{result} ok{notes}"
    return f"check: {what}: NOT COMPARED with another library: {'; '.join(missing)}"
