"""Random brightness, contrast, saturation and hue, on the device.

mmsegmentation's `PhotoMetricDistortion` with its defaults, which go back to SSD (Liu et al.
2016): each change happens to every other image, contrast either before or after the colours.
"""

import jax
import jax.numpy as jnp

CHANCE = 0.5
BRIGHTNESS = 32.0  # levels of 255, either way
CONTRAST = SATURATION = (0.5, 1.5)  # factors
HUE = 36.0  # degrees either way: 18 of OpenCV's, which are two degrees each


def distort(images: jax.Array, rng: jax.Array) -> jax.Array:
    """Changes the colours of each image: uint8 [B, H, W, 3] -> uint8 [B, H, W, 3]."""
    keys = jax.random.split(rng, 9)
    shape = (images.shape[0], 1, 1)  # one number an image

    def chosen(number: int) -> jax.Array:
        return jax.random.bernoulli(keys[number], CHANCE, shape)

    def drawn(number: int, low: float, high: float) -> jax.Array:
        return jax.random.uniform(keys[number], shape, minval=low, maxval=high)

    shift = jnp.where(chosen(0), drawn(1, -BRIGHTNESS, BRIGHTNESS), 0.0)
    contrast = jnp.where(chosen(2), drawn(3, *CONTRAST), 1.0)
    saturation = jnp.where(chosen(4), drawn(5, *SATURATION), 1.0)
    turn = jnp.where(chosen(6), drawn(7, -HUE, HUE), 0.0)
    contrast_first = chosen(8)

    before = jnp.where(contrast_first, contrast, 1.0)[..., None]
    after = jnp.where(contrast_first, 1.0, contrast)[..., None]
    pixels = _clip(images.astype(jnp.float32) + shift[..., None])
    pixels = change_colours(_clip(pixels * before), saturation, turn)
    return jnp.round(_clip(pixels * after)).astype(jnp.uint8)


def change_colours(pixels: jax.Array, saturation: jax.Array, turn: jax.Array) -> jax.Array:
    """Multiplies the saturation and turns the hue in HSV space.

    Args:
      pixels: float32 [..., 3] red, green, blue in 0..255.
      saturation: factor, broadcast to [...]; the product ends at full saturation.
      turn: degrees, broadcast to [...].

    Returns:
      float32 [..., 3] in 0..255; grey stays grey.
    """
    red, green, blue = jnp.moveaxis(pixels, -1, 0)
    value = pixels.max(-1)
    chroma = value - pixels.min(-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    hue = jnp.where(  # in sixths of a turn
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue += turn / 60
    chroma = jnp.minimum(chroma * saturation, value)

    def channel(offset: int) -> jax.Array:
        sixth = (offset + hue) % 6
        return value - chroma * jnp.clip(jnp.minimum(sixth, 4 - sixth), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], -1)


def _clip(pixels: jax.Array) -> jax.Array:
    return jnp.clip(pixels, 0, 255)
