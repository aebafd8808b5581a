"""Oriented region proposals (Xie et al. 2021, arXiv 2108.05699).

Definitions of mmrotate's `oriented_rpn_head` and `oriented_rcnn_r50_fpn_1x_dota_le90`: three
horizontal anchors a cell, each with an objectness and six midpoint offsets.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rsfm_jax.boxes.anchors import (
    RATIOS,
    SCALE,
    STRIDES,
    grid_anchors,
    inside_image,
    level_sizes,
)
from rsfm_jax.boxes.assign import RPN_RULE, assign
from rsfm_jax.boxes.coders import decode_midpoint, encode_midpoint
from rsfm_jax.boxes.geometry import to_hbb
from rsfm_jax.boxes.nms import hbb_nms, top_kept
from rsfm_jax.boxes.truths import Truths
from rsfm_jax.models.convolution import Conv
from rsfm_jax.models.detection_losses import box_loss, draw_samples
from rsfm_jax.models.layers import Dtype

INIT = nn.initializers.normal(0.01)
NMS_THRESHOLD = 0.8  # overlap of the proposals' horizontal boxes
POSITIVE_SHARE = 0.5  # of the sampled anchors, at most
BETA = 1 / 9  # where the box loss turns from quadratic to linear

ImageSize = tuple[int, int]  # height, width in pixels


@dataclasses.dataclass(frozen=True)
class RPNConfig:
    """Numbers of the first stage; the defaults are mmrotate's.

    Attributes:
      strides: pixels a cell of each map, finest first.
      anchor_scale: strides a side of an anchor.
      samples: anchors an image that train.
      proposals_per_level: boxes of each level that enter NMS.
      proposals: boxes an image, all levels together, that go to the second stage.
    """

    strides: tuple[int, ...] = STRIDES
    anchor_scale: float = SCALE
    samples: int = 256
    proposals_per_level: int = 2000
    proposals: int = 2000


class AnchorScores(NamedTuple):
    """What the network says of every anchor, level by level as in `grid_anchors`."""

    logits: jax.Array  # [B, A] float32
    offsets: jax.Array  # [B, A, 6] float32, encoded (`boxes.coders`)


class AnchorTargets(NamedTuple):
    """The sampled anchors of an image (S slots), and what they should say."""

    index: jax.Array  # type: ignore[assignment]  # [S] int32
    used: jax.Array  # [S] bool
    positive: jax.Array  # [S] bool
    offsets: jax.Array  # [S, 6] float32, meaningful where positive


class OrientedRPN(nn.Module):
    """One convolution and two 1x1 outputs, the same on every level."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> AnchorScores:
        """Maps [B, h, w, C], finest first -> scores of all their anchors."""
        batch, channels = maps[0].shape[0], maps[0].shape[-1]
        conv = Conv(channels, 3, self.dtype, init=INIT, name="conv")
        objectness = Conv(len(RATIOS), 1, jnp.float32, init=INIT, name="objectness")
        offsets = Conv(6 * len(RATIOS), 1, jnp.float32, init=INIT, name="offsets")
        hidden = [jax.nn.relu(conv(x)) for x in maps]
        return AnchorScores(
            jnp.concatenate([objectness(x).reshape(batch, -1) for x in hidden], axis=1),
            jnp.concatenate([offsets(x).reshape(batch, -1, 6) for x in hidden], axis=1),
        )


def propose(scores: AnchorScores, image_size: ImageSize, config: RPNConfig) -> jax.Array:
    """Proposals of one image, best first: scores [A], [A, 6] -> [P, 5], zeros in unused rows.

    The best of every level are decoded, thinned by horizontal NMS within their level, and the
    best of all levels kept. They are not clipped to the image.
    """
    sizes = level_sizes(image_size, config.strides)
    index = _best_of_levels(scores.logits, sizes, config.proposals_per_level)  # [L, K]

    def look_up(x: jax.Array) -> jax.Array:  # NaN in the slots that small levels leave empty
        return x.at[index.ravel()].get(mode="fill", fill_value=jnp.nan)

    anchors = grid_anchors(image_size, config.strides, config.anchor_scale)
    boxes = decode_midpoint(look_up(anchors), look_up(scores.offsets))  # [L * K, 5]
    logits = look_up(scores.logits)
    levels = (to_hbb(boxes).reshape(*index.shape, 4), logits.reshape(index.shape))
    keep = jax.vmap(lambda hbb, logit: hbb_nms(hbb, logit, NMS_THRESHOLD))(*levels)
    chosen, used = top_kept(keep.ravel(), logits, config.proposals)
    return jnp.where(used[:, None], boxes[chosen], 0)


def _best_of_levels(logits: jax.Array, sizes: tuple[int, ...], count: int) -> jax.Array:
    """Indices of each level's `count` best [L, count]; A, which is none, where it has fewer."""
    rows, start = [], 0
    for size in sizes:
        _, index = jax.lax.top_k(logits[start : start + size], min(count, size))
        empty = (0, count - len(index))
        rows.append(jnp.pad(start + index, empty, constant_values=len(logits)))
        start += size
    return jnp.stack(rows)


def anchor_targets(
    key: jax.Array, truths: Truths, image_size: ImageSize, config: RPNConfig
) -> AnchorTargets:
    """Draws the anchors of one image that train and encodes their objects."""
    anchors = grid_anchors(image_size, config.strides, config.anchor_scale)
    boxes = jnp.where(truths.valid[:, None], truths.boxes, 0)
    assigned = assign(anchors, to_hbb(boxes), RPN_RULE, inside_image(anchors, image_size))
    samples = draw_samples(key, assigned.label, config.samples, POSITIVE_SHARE)
    objects = boxes[assigned.truth[samples.index]]
    return AnchorTargets(*samples, encode_midpoint(anchors[samples.index], objects))


def rpn_losses(scores: AnchorScores, targets: AnchorTargets) -> tuple[jax.Array, jax.Array]:
    """Objectness and offset loss of a batch, both over the number of its sampled anchors.

    As in mmrotate an image counts at least one positive and one negative. Of a batch computed in
    parts (`config.accumulate_steps`) it is the number of each part, as it is of each GPU there.
    """
    logits = jnp.take_along_axis(scores.logits, targets.index, axis=1)  # [B, S]
    offsets = jnp.take_along_axis(scores.offsets, targets.index[..., None], axis=1)
    positives = targets.positive.sum(axis=1)
    negatives = targets.used.sum(axis=1) - positives
    count = jnp.sum(jnp.maximum(positives, 1) + jnp.maximum(negatives, 1))
    errors = optax.sigmoid_binary_cross_entropy(logits, targets.positive)
    objectness = jnp.sum(jnp.where(targets.used, errors, 0))
    regression = box_loss(offsets, targets.offsets, targets.positive, BETA)
    return objectness / count, regression / count
