"""Oriented R-CNN (Xie et al. 2021, arXiv 2108.05699) on ViTDet.

Two stages: proposals from every level of a pyramid (`oriented_rpn`), then classes and refined
boxes of what RoIAlignRotated reads there (`roi_head`). All shapes are static: objects, proposals
and detections come in a fixed number of rows. Box arithmetic, losses and softmax are float32.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsfm_jax.boxes.roi_align import extend, roi_align
from rsfm_jax.boxes.truths import Truths
from rsfm_jax.models.layers import Dtype
from rsfm_jax.models.oriented_rpn import (
    AnchorScores,
    ImageSize,
    OrientedRPN,
    RPNConfig,
    anchor_targets,
    propose,
    rpn_losses,
)
from rsfm_jax.models.pyramid import SimpleFeaturePyramid
from rsfm_jax.models.roi_head import (
    Detections,
    RegionScores,
    RoIConfig,
    RoIHead,
    detect,
    region_targets,
    roi_losses,
)
from rsfm_jax.models.vitdet import ViTDet, ViTDetConfig
from rsfm_jax.sharding.images import per_device

ROI_LEVELS = 4  # strides 4 to 32: the coarsest level only proposes

Losses = tuple[jax.Array, dict[str, jax.Array]]  # their sum, and scalars to log


class DetectionHeads(nn.Module):
    """Both stages on a feature pyramid: maps [B, h, w, C], one for each of `rpn.strides`."""

    rpn: RPNConfig
    roi: RoIConfig
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declares the networks of both stages."""
        self.first_stage = OrientedRPN(self.dtype)
        self.second_stage = RoIHead(self.roi, self.dtype)

    def __call__(self, maps: list[jax.Array]) -> Detections:
        """Detections of every image."""
        proposals = self._propose(self.first_stage(maps), self._image_size(maps))
        scores = self._score(maps, proposals)
        find = partial(detect, image_size=self._image_size(maps), config=self.roi)
        return per_device(jax.vmap(find))(scores, proposals)

    def loss(self, maps: list[jax.Array], truths: Truths) -> Losses:
        """Sum of the four losses, with the parts and counts an image.

        Anchors and regions are drawn from the rng stream `sample`. Proposals and targets get
        no gradient.
        """
        image_size = self._image_size(maps)
        batch = len(truths.boxes)
        anchor_keys, region_keys = jax.random.split(self.make_rng("sample"), (2, batch))

        scores = self.first_stage(maps)
        draw = partial(anchor_targets, image_size=image_size, config=self.rpn)
        anchors = per_device(jax.vmap(draw))(anchor_keys, truths)
        objectness, offsets = rpn_losses(scores, anchors)

        proposals = self._propose(scores, image_size)
        draw_regions = partial(region_targets, config=self.roi)
        regions = per_device(jax.vmap(draw_regions))(region_keys, proposals, truths)
        classes, deltas = roi_losses(self._score(maps, regions.boxes), regions)

        metrics = {
            "rpn_objectness_loss": objectness,
            "rpn_offset_loss": offsets,
            "roi_class_loss": classes,
            "roi_box_loss": deltas,
            "positive_anchors_per_image": anchors.positive.sum() / batch,
            "positive_regions_per_image": regions.positive.sum() / batch,
            "truncated_objects_per_image": truths.truncated.sum() / batch,
        }
        return objectness + offsets + classes + deltas, metrics

    def _image_size(self, maps: list[jax.Array]) -> ImageSize:
        _, rows, columns, _ = maps[0].shape
        return rows * self.rpn.strides[0], columns * self.rpn.strides[0]

    def _propose(self, scores: AnchorScores, image_size: ImageSize) -> jax.Array:
        """[B, P, 5], without gradient."""
        one_image = partial(propose, image_size=image_size, config=self.rpn)
        return per_device(jax.vmap(one_image))(jax.lax.stop_gradient(scores))

    def _score(self, maps: list[jax.Array], regions: jax.Array) -> RegionScores:
        """Regions [B, R, 5] -> scores."""
        pool = partial(roi_align, strides=self.rpn.strides[:ROI_LEVELS])
        regions = extend(regions, self.roi.extend_factor)
        return self.second_stage(per_device(pool)(maps[:ROI_LEVELS], regions))


class OrientedRCNN(nn.Module):
    """Images to detections: ViTDet, its last map's pyramid, and both stages."""

    backbone: ViTDetConfig
    roi: RoIConfig
    rpn: RPNConfig = RPNConfig()
    channels: int = 256

    def setup(self) -> None:
        """Declares backbone, pyramid and heads."""
        dtype = self.backbone.encoder.dtype
        self.encoder = ViTDet(self.backbone)
        self.pyramid = SimpleFeaturePyramid(self.channels, dtype)
        self.heads = DetectionHeads(self.rpn, self.roi, dtype)

    def __call__(self, images: jax.Array) -> Detections:
        """Images [B, H, W, 3], normalised -> detections."""
        return self.heads(self._maps(images, deterministic=True))

    def loss(self, images: jax.Array, truths: Truths) -> Losses:
        """Training loss of images [B, H, W, 3] and their objects; `truths` has the batch axis.

        Needs the rng streams `drop_path` and `sample`.
        """
        return self.heads.loss(self._maps(images, deterministic=False), truths)

    def _maps(self, images: jax.Array, deterministic: bool) -> list[jax.Array]:
        return self.pyramid(self.encoder(images, deterministic)[-1])
