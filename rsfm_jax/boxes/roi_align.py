"""RoIAlignRotated over a whole feature pyramid with one gather.

The levels are laid end to end in one table of feature vectors, so that regions of all sizes are
sampled together. Every output cell is the mean of a small grid of bilinear samples over the rotated
region; regions are clockwise and pixel centres lie at half coordinates ("aligned").
"""

import jax
import jax.numpy as jnp
from jax import lax

from rsfm_jax.boxes.geometry import is_valid

OUTPUT = 7  # cells along each side of a region
SAMPLES = 2  # samples along each side of a cell (mmrotate sample_num=2)
FINEST = 14  # cells: regions with sqrt(area) below twice this read the finest level


def pyramid_level(boxes, levels, finest_stride=4):
    """Level 0 (finest) to `levels` - 1 of each region: [..., 5] -> [...] int32.

    With the finest stride of 4 pixels level 1 starts at 112 pixels (mmrotate finest_scale=56).
    """
    scale = jnp.sqrt(boxes[..., 2] * boxes[..., 3])
    level = jnp.floor(jnp.log2(scale / (FINEST * finest_stride) + 1e-6))
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)


def extend(boxes, factors):
    """Regions with (w, h) times `factors`; (1.4, 1.2) in OBBDetection and RVSA, else (1, 1)."""
    return boxes * jnp.array([1, 1, *factors, 1])


def roi_align(pyramid, rois, strides):
    """Pool each region from the level of its size: [B, R, 5] pixels -> [B, R, 7, 7, C].

    `pyramid`: one [B, H, W, C] map for each of `strides` (pixels a cell). The regions get no
    gradient; invalid ones (padding, NaN) give zeros. Sums are in float32.
    """
    table = jnp.concat([p.reshape(len(p), -1, p.shape[-1]) for p in pyramid], axis=1)
    shapes = tuple(p.shape[1:3] for p in pyramid)
    index, weight = _taps(lax.stop_gradient(rois), shapes, strides)  # [B, taps, R * 49]
    image = jnp.arange(len(table))[:, None, None] * table.shape[1]
    index, weight = (jnp.moveaxis(x, 1, 0).reshape(x.shape[1], -1) for x in (index + image, weight))
    pooled = _weighted_rows(table.reshape(-1, table.shape[-1]), index, weight)
    return pooled.reshape(*rois.shape[:2], OUTPUT, OUTPUT, table.shape[-1])


def _taps(rois, shapes, strides):
    """Rows of one image's table that each cell reads, and their weights: [B, taps, R * 49].

    There are SAMPLES**2 samples of 4 corners each. As in mmcv, samples more than a cell outside the
    map count as zero, those nearer read the border.
    """
    valid = is_valid(rois)
    rois = jnp.where(valid[..., None], rois, jnp.array([0, 0, 1, 1, 0], rois.dtype))
    level = pyramid_level(rois, len(shapes), strides[0])
    height, width = (jnp.array([shape[i] for shape in shapes])[level] for i in (0, 1))
    start = jnp.cumulative_sum(jnp.array([h * w for h, w in shapes]), include_initial=True)[level]
    x, y = _sample_points(rois, jnp.array(strides, rois.dtype)[level])  # [B, R, n, n]
    height, width, start, valid = (v[..., None, None] for v in (height, width, start, valid))
    inside = (x >= -1) & (x <= width) & (y >= -1) & (y <= height) & valid
    x, y = jnp.where(inside, x, 0), jnp.where(inside, y, 0)
    x0, fx = _cell_and_fraction(x, width)
    y0, fy = _cell_and_fraction(y, height)
    x1, y1 = jnp.minimum(x0 + 1, width - 1), jnp.minimum(y0 + 1, height - 1)
    share = inside / SAMPLES**2
    corners = [(y0, x0, (1 - fy) * (1 - fx)), (y0, x1, (1 - fy) * fx),
               (y1, x0, fy * (1 - fx)), (y1, x1, fy * fx)]  # fmt: skip
    index = jnp.stack([start + row * width + column for row, column, _ in corners], axis=1)
    weight = jnp.stack([fraction * share for _, _, fraction in corners], axis=1)
    return _by_cell(index), _by_cell(weight.astype(jnp.float32))


def _sample_points(rois, stride):
    """Coordinates, in cells of each region's level, of its samples: [B, R, n, n] x and y."""
    count = OUTPUT * SAMPLES
    grid = (jnp.arange(count) + 0.5) / count - 0.5
    x, y, w, h, angle = (rois[..., i, None, None] for i in range(5))
    stride = stride[..., None, None]
    along, across = grid * w, grid[:, None] * h
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    shifted_x, shifted_y = x + along * cos - across * sin, y + along * sin + across * cos
    return shifted_x / stride - 0.5, shifted_y / stride - 0.5


def _cell_and_fraction(coordinate, size):
    coordinate = jnp.clip(coordinate, 0, size - 1)
    cell = jnp.floor(coordinate)
    return cell.astype(jnp.int32), coordinate - cell


def _by_cell(x):
    """[B, 4, R, n, n] -> [B, taps, R * cells]: the samples of a cell join its corners."""
    batch, corners, regions = x.shape[:3]
    x = x.reshape(batch, corners, regions, OUTPUT, SAMPLES, OUTPUT, SAMPLES)
    x = x.transpose(0, 1, 4, 6, 2, 3, 5)
    return x.reshape(batch, corners * SAMPLES**2, regions * OUTPUT**2)


@jax.custom_vjp
def _weighted_rows(table, index, weight):
    """sum over taps of weight * table[index]: [rows, C], [taps, cells] -> [cells, C].

    The derivative adds rows into one table in place, where automatic differentiation would make a
    table for every tap.
    """

    def add_tap(total, tap):
        rows, share = tap
        return total + share[:, None] * table[rows].astype(jnp.float32), None

    total = jnp.zeros((index.shape[1], table.shape[1]), jnp.float32)
    return lax.scan(add_tap, total, (index, weight))[0].astype(table.dtype)


def _weighted_rows_forward(table, index, weight):
    return _weighted_rows(table, index, weight), (table, index, weight)


def _weighted_rows_backward(saved, grad):
    table, index, weight = saved
    grad = grad.astype(jnp.float32)

    def add_tap(total, tap):
        rows, share = tap
        return total.at[rows].add(share[:, None] * grad), None

    total = jnp.zeros(table.shape, jnp.float32)
    return lax.scan(add_tap, total, (index, weight))[0].astype(table.dtype), None, None


_weighted_rows.defvjp(_weighted_rows_forward, _weighted_rows_backward)
