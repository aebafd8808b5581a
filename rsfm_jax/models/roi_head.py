"""The second stage: classes and refined boxes of proposed regions.

Definitions of mmrotate's `oriented_rcnn_r50_fpn_1x_dota_le90` (`RotatedShared2FCBBoxHead`).
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rsfm_jax.boxes.assign import ROI_RULE, assign
from rsfm_jax.boxes.coders import decode_rotated, encode_rotated
from rsfm_jax.boxes.geometry import is_valid
from rsfm_jax.boxes.nms import multiclass_nms, top_kept
from rsfm_jax.boxes.truths import Truths
from rsfm_jax.models.detection_losses import box_loss, draw_samples
from rsfm_jax.models.layers import Dtype, Linear

NMS_THRESHOLD = 0.1  # rotated overlap of detections of one class
POSITIVE_SHARE = 0.25  # of the sampled regions, at most
BETA = 1.0  # where the box loss turns from quadratic to linear


@dataclasses.dataclass(frozen=True)
class RoIConfig:
    """Numbers of the second stage; the defaults are mmrotate's.

    Attributes:
      num_classes: without the background.
      hidden: width of the two shared layers.
      extend_factor: how much longer and wider a region is pooled than it is; (1.4, 1.2) in
        OBBDetection and RVSA.
      samples: regions an image that train.
      score_threshold: probability that a detection must exceed.
      max_detections: rows of the result an image.
    """

    num_classes: int
    hidden: int = 1024
    extend_factor: tuple[float, float] = (1.0, 1.0)
    samples: int = 512
    score_threshold: float = 0.05
    max_detections: int = 2000


class RegionScores(NamedTuple):
    """What the network says of every region."""

    logits: jax.Array  # [B, R, num_classes + 1] float32, the background last
    deltas: jax.Array  # [B, R, 5] float32, encoded (`boxes.coders`), for all classes alike


class RegionTargets(NamedTuple):
    """The sampled regions of an image (S slots), and what they should say."""

    boxes: jax.Array  # [S, 5] float32, zeros in unused slots
    used: jax.Array  # [S] bool
    positive: jax.Array  # [S] bool
    classes: jax.Array  # [S] int32, num_classes for the background
    deltas: jax.Array  # [S, 5] float32, meaningful where positive


class Detections(NamedTuple):
    """Detections in D slots an image, by falling score."""

    boxes: jax.Array  # [B, D, 5] float32 pixels, le90; zeros in unused slots
    scores: jax.Array  # [B, D] float32 in [0, 1]
    classes: jax.Array  # [B, D] int32
    valid: jax.Array  # [B, D] bool


class RoIHead(nn.Module):
    """Two shared layers and two outputs."""

    config: RoIConfig
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, pooled: jax.Array) -> RegionScores:
        """Pooled regions [B, R, 7, 7, C] -> scores."""
        x = pooled.reshape(*pooled.shape[:2], -1)
        hidden, classes = self.config.hidden, self.config.num_classes + 1
        x = jax.nn.relu(Linear(hidden, ("embed", "mlp"), self.dtype, name="fc1")(x))
        x = jax.nn.relu(Linear(hidden, ("mlp", "embed"), self.dtype, name="fc2")(x))
        class_init, delta_init = (nn.initializers.normal(std) for std in (0.01, 0.001))
        output = ("embed", None)
        return RegionScores(
            Linear(classes, output, kernel_init=class_init, name="classes")(x),
            Linear(5, output, kernel_init=delta_init, name="deltas")(x),
        )


def region_targets(
    key: jax.Array, proposals: jax.Array, truths: Truths, config: RoIConfig
) -> RegionTargets:
    """Draws the regions of one image that train, from its proposals [P, 5] and its objects.

    As in mmdetection every object is itself a candidate and answers for itself.
    """
    boxes = jnp.where(truths.valid[:, None], truths.boxes, 0)
    assigned = assign(proposals, boxes, ROI_RULE)
    candidates = jnp.concatenate([boxes, proposals])
    itself = jnp.where(is_valid(boxes), 1, -1).astype(assigned.label.dtype)
    label = jnp.concatenate([itself, assigned.label])
    truth = jnp.concatenate([jnp.arange(len(boxes)), assigned.truth])
    index, used, positive = draw_samples(key, label, config.samples, POSITIVE_SHARE)
    regions, truth = jnp.where(used[:, None], candidates[index], 0), truth[index]
    return RegionTargets(
        boxes=regions,
        used=used,
        positive=positive,
        classes=jnp.where(positive, truths.classes[truth], config.num_classes),
        deltas=encode_rotated(regions, boxes[truth]),
    )


def roi_losses(scores: RegionScores, targets: RegionTargets) -> tuple[jax.Array, jax.Array]:
    """Class and box loss of a batch, both over the number of its sampled regions."""
    count = jnp.maximum(jnp.sum(targets.used), 1)
    errors = optax.softmax_cross_entropy_with_integer_labels(scores.logits, targets.classes)
    classification = jnp.sum(jnp.where(targets.used, errors, 0))
    regression = box_loss(scores.deltas, targets.deltas, targets.positive, BETA)
    return classification / count, regression / count


def detect(
    scores: RegionScores, proposals: jax.Array, image_size: tuple[int, int], config: RoIConfig
) -> Detections:
    """Detections of one image: scores [P, C + 1], [P, 5] of its proposals [P, 5].

    Each class suppresses its own overlaps; the best of all classes are kept.
    """
    boxes = decode_rotated(proposals, scores.deltas, image_size)
    probability = jax.nn.softmax(scores.logits)[:, :-1]  # [P, C]
    probability = jnp.where(is_valid(proposals)[:, None], probability, 0)
    keep = multiclass_nms(boxes, probability, NMS_THRESHOLD, config.score_threshold)
    index, valid = top_kept(keep.ravel(), probability.ravel(), config.max_detections)
    region, label = index // config.num_classes, index % config.num_classes
    return Detections(
        boxes=jnp.where(valid[:, None], boxes[region], 0),
        scores=jnp.where(valid, probability.ravel()[index], 0),
        classes=jnp.where(valid, label, 0),
        valid=valid,
    )
