"""What happens to images on the device: flips and normalising of uint8."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def random_flip(images: jax.Array, rng: jax.Array, horizontal: float, vertical: float) -> jax.Array:
    """Mirrors each image [B, H, W, C] left-right and top-bottom with the given chances."""
    for axis, chance, key in zip(
        (2, 1), (horizontal, vertical), jax.random.split(rng), strict=True
    ):
        flipped = jax.random.bernoulli(key, chance, (images.shape[0], 1, 1, 1))
        images = jnp.where(flipped, jnp.flip(images, axis), images)
    return images


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 [..., C] -> float32, less `mean` and over `std` (per band, on the 0..1 scale)."""
    return (images.astype(jnp.float32) / 255.0 - jnp.array(mean)) / jnp.array(std)


def denormalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Inverse of `normalize`, rounded and clipped to uint8."""
    pixels = (images * jnp.array(std) + jnp.array(mean)) * 255.0
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)
