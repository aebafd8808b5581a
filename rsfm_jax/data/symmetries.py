"""The eight ways in which a square lies on itself, for images and their rotated boxes together.

A view from above has no upright: flips and quarter turns make examples as good as the first. They
are exact in pixels and, with pixel edges at whole numbers, in boxes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsfm_jax.boxes.geometry import flip_horizontal, flip_vertical, is_valid, rotate


class Symmetries(NamedTuple):
    """What is done to each image of a batch, in this order."""

    mirrored: jax.Array  # [B] bool, left to right
    upended: jax.Array  # [B] bool, top to bottom; with the first the diagonal flip of mmrotate
    turned: jax.Array  # [B] bool, a quarter clockwise


def draw_symmetries(
    rng: jax.Array, batch: int, horizontal: float, vertical: float, turn: float
) -> Symmetries:
    """Independent draws with the given chances; all of them 0.5 make the eight equally likely."""
    chances = (horizontal, vertical, turn)
    keys = jax.random.split(rng, len(chances))
    draws = zip(keys, chances, strict=True)
    return Symmetries(*(jax.random.bernoulli(key, chance, (batch,)) for key, chance in draws))


def apply_to_images(images: jax.Array, symmetries: Symmetries) -> jax.Array:
    """Square images or masks [B, S, S, ...] -> the same shape."""

    def where(chosen: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(-1, *[1] * (images.ndim - 1)), new, old)

    images = where(symmetries.mirrored, jnp.flip(images, 2), images)
    images = where(symmetries.upended, jnp.flip(images, 1), images)
    return where(symmetries.turned, jnp.flip(images.swapaxes(1, 2), 2), images)


def apply_to_boxes(boxes: jax.Array, symmetries: Symmetries, size: int) -> jax.Array:
    """Boxes [B, G, 5] of images `size` pixels a side -> [B, G, 5], canonical if they were.

    All-zero rows, which are padding, stay zero.
    """

    def where(chosen: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(chosen[:, None, None], new, old)

    moved = where(symmetries.mirrored, flip_horizontal(boxes, size), boxes)
    moved = where(symmetries.upended, flip_vertical(moved, size), moved)
    quarter = rotate(moved, jnp.pi / 2, (size / 2, size / 2))
    moved = where(symmetries.turned, quarter, moved)
    return jnp.where(is_valid(boxes)[..., None], moved, 0)
