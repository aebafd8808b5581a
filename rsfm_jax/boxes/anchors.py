"""Horizontal anchors of the oriented RPN and which of them lie inside the image.

Oriented R-CNN (mmrotate `oriented_rcnn_r50_fpn_1x_dota_le90`): one scale, 8 strides unless told,
three ratios of height to width, centred on the top-left corner of every cell.
"""

import jax.numpy as jnp

STRIDES = (4, 8, 16, 32, 64)
SCALE = 8
RATIOS = (0.5, 1.0, 2.0)  # height / width


def level_sizes(image_size, strides=STRIDES):
    """Anchors of each level for `image_size` (height, width): a tuple of counts."""
    return tuple(_cells(image_size[0], s) * _cells(image_size[1], s) * len(RATIOS) for s in strides)


def grid_anchors(image_size, strides=STRIDES, scale=SCALE):
    """Anchors (x1, y1, x2, y2) in pixels, level by level, row by row, ratio fastest: [A, 4].

    Each has the area of a square of `scale` strides a side.
    """
    return jnp.concat([_level_anchors(image_size, stride, scale) for stride in strides])


def _level_anchors(image_size, stride, scale):
    ratio = jnp.sqrt(jnp.array(RATIOS))
    half = scale * stride / 2 * jnp.stack([1 / ratio, ratio], axis=-1)  # [ratios, 2]: x, y
    y, x = (stride * jnp.arange(_cells(size, stride)) for size in image_size)
    centre = jnp.stack(jnp.meshgrid(x, y), axis=-1)[:, :, None]  # [rows, columns, 1, 2]
    return jnp.concat([centre - half, centre + half], axis=-1).reshape(-1, 4)


def _cells(size, stride):
    return -(-size // stride)


def inside_image(anchors, image_size):
    """Anchors wholly inside (height, width), the only ones that train: [A, 4] -> [A] bool."""
    height, width = image_size
    x1, y1, x2, y2 = (anchors[..., i] for i in range(4))
    return (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height)
