"""Rotated object detection: Oriented R-CNN on a pretrained encoder."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rsfm_jax.boxes.truths import Truths
from rsfm_jax.data.detection import DetectionTransform, check_classes
from rsfm_jax.data.device import normalize
from rsfm_jax.data.loader import Loader
from rsfm_jax.data.sources import Source, open_source
from rsfm_jax.data.symmetries import apply_to_boxes, apply_to_images, draw_symmetries
from rsfm_jax.errors import UserError
from rsfm_jax.models.flops import oriented_rcnn_flops
from rsfm_jax.models.oriented_rcnn import OrientedRCNN
from rsfm_jax.models.oriented_rpn import RPNConfig
from rsfm_jax.models.pyramid import pyramid_strides
from rsfm_jax.models.roi_head import Detections, RoIConfig
from rsfm_jax.models.vitdet import RELATIVE_POSITIONS
from rsfm_jax.sharding.rules import replicated
from rsfm_jax.tasks import detect_evaluation, encoder
from rsfm_jax.tasks.loading import load_batches
from rsfm_jax.training.state import Batch, Metrics, Variables
from rsfm_jax.training.validate import (
    AT_LEAST_1,
    FLAG,
    PART,
    POSITIVE,
    RATE,
    SHARE,
    Rule,
    check_values,
)

CLASS_NAMES: Rule = (
    lambda x: len(x) > 0 and len(set(x)) == len(x) and all(isinstance(name, str) for name in x),
    "different names of classes",
)

# What detection reads beyond `COMMON_RULES`.
RULES = (
    encoder.RULES
    | encoder.VITDET_RULES
    | detect_evaluation.RULES
    | {
        "model.channels": AT_LEAST_1,
        "model.anchor_scale": POSITIVE,
        "model.rpn_samples": AT_LEAST_1,
        "model.proposals_per_level": AT_LEAST_1,
        "model.proposals": AT_LEAST_1,
        "model.roi_hidden": AT_LEAST_1,
        "model.roi_samples": AT_LEAST_1,
        "model.extend_factor": (
            lambda x: len(x) == 2 and min(x) >= 1,
            "two factors of 1 or more, along a region and across it",
        ),
        "model.score_threshold": RATE,
        "model.max_detections": AT_LEAST_1,
        "data.classes": CLASS_NAMES,
        "data.scale_range": (lambda x: len(x) == 2 and 0 < x[0] <= x[1], "0 < low <= high"),
        "data.rotation": SHARE,
        "data.upright_classes": (lambda x: all(isinstance(name, str) for name in x), "classes"),
        "data.near_objects": SHARE,
        "data.kept_share": PART,
        "data.keep_difficult": FLAG,
        "data.max_objects": AT_LEAST_1,
        "data.horizontal_flip": SHARE,
        "data.vertical_flip": SHARE,
        "data.quarter_turn": SHARE,
    }
)


def detector(config: Any, platform: str) -> OrientedRCNN:
    """The network that `config.model` describes, for devices of `platform`.

    Raises:
      UserError: a value out of range, an unknown size, type, policy or attention, or an image
        that patches do not divide.
    """
    check_values(config, RULES)
    model = config.model
    if model.patch_size % 4:
        raise UserError(
            f"config.model.patch_size={model.patch_size} must be a multiple of 4: the finest of "
            "the detector's maps has a quarter of its stride"
        )
    return OrientedRCNN(
        backbone=encoder.vitdet_config(config, platform),
        roi=RoIConfig(
            num_classes=len(config.data.classes),
            hidden=model.roi_hidden,
            extend_factor=tuple(model.extend_factor),
            samples=model.roi_samples,
            score_threshold=model.score_threshold,
            max_detections=model.max_detections,
        ),
        rpn=RPNConfig(
            strides=pyramid_strides(model.patch_size),
            anchor_scale=model.anchor_scale,
            samples=model.rpn_samples,
            proposals_per_level=model.proposals_per_level,
            proposals=model.proposals,
        ),
        channels=model.channels,
    )


class Detect:
    """The `Task` of rotated detection (see `rsfm_jax.training.state.Task`)."""

    new_weights: tuple[str, ...] = RELATIVE_POSITIONS
    class_layers: tuple[str, ...] = ("heads/second_stage/classes/",)

    def __init__(self, config: Any, mesh: Mesh):
        self.config, self.mesh = config, mesh
        self.model = detector(config, mesh.devices.flat[0].platform)
        self.class_names = tuple(config.data.classes)
        self.transform = self._transform()
        self.flops = oriented_rcnn_flops(self.model)
        self.contract = encoder.image_contract(config) | {"classes": list(self.class_names)}
        self._whole_images = detect_evaluation.WholeImages(config, mesh)
        self._predict = jax.jit(self._detections, out_shardings=replicated(mesh))

    def init(self, rng: jax.Array) -> Variables:
        """Fresh weights, boxed with their logical axes."""
        size = self.config.data.image_size
        return self.model.init(rng, jnp.zeros((1, size, size, 3)))

    def abstract_batch(self) -> Batch:
        """uint8 images [B, S, S, 3] and `Truths` of G rows by name."""
        data, batch = self.config.data, self.config.batch_size
        shape = jax.ShapeDtypeStruct
        return {
            "image": shape((batch, data.image_size, data.image_size, 3), jnp.uint8),
            "boxes": shape((batch, data.max_objects, 5), jnp.float32),
            "classes": shape((batch, data.max_objects), jnp.int32),
            "valid": shape((batch, data.max_objects), jnp.bool_),
            "truncated": shape((batch,), jnp.int32),
        }

    def prepare(self, batch: Batch, rng: jax.Array) -> Batch:
        """Flips and quarter turns of images and boxes together."""
        data = self.config.data
        chances = (data.horizontal_flip, data.vertical_flip, data.quarter_turn)
        symmetries = draw_symmetries(rng, len(batch["image"]), *chances)
        return batch | {
            "image": apply_to_images(batch["image"], symmetries),
            "boxes": apply_to_boxes(batch["boxes"], symmetries, data.image_size),
        }

    def loss(
        self, variables: Variables, inputs: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Metrics, Any]:
        """Sum of both stages' losses, and its parts."""
        images = normalize(inputs["image"], self.config.data.mean, self.config.data.std)
        truths = Truths(**{name: inputs[name] for name in Truths._fields})
        rngs = dict(zip(("drop_path", "sample"), jax.random.split(rng), strict=True))
        total, metrics = self.model.apply(variables, images, truths, method="loss", rngs=rngs)
        return total, metrics, {}

    def predict(self, variables: Variables, images: Any) -> Detections:
        """Detections in images uint8 [B, S, S, 3], whole on every process.

        Any side S that patches divide serves; each new shape compiles once.
        """
        return self._predict(variables, images)

    def batches(self, rows: np.ndarray, start_step: int) -> Loader:
        """Views of this process's rows, from `start_step` on."""
        data = self.config.data
        self._whole_images.open()  # what is wrong with them is told before training
        source = self._open(data.source, data.split)
        return load_batches(self.config, source, self.transform, rows, start_step)

    def evaluate(self, variables: Variables, step: int, workdir: Path) -> dict[str, float]:
        """Average precisions on the whole images of `config.eval.source`."""
        return self._whole_images(partial(self.predict, variables), workdir)

    def _detections(self, variables: Variables, images: jax.Array) -> Detections:
        data = self.config.data
        return self.model.apply(variables, normalize(images, data.mean, data.std))

    def _open(self, name: str, split: str) -> Source:
        source = open_source(name, split)
        check_classes(source.object_names, self.class_names, name)
        return source

    def _transform(self) -> DetectionTransform:
        config, data = self.config, self.config.data
        unknown = [name for name in data.upright_classes if name not in self.class_names]
        if unknown:
            raise UserError(
                f"config.data.upright_classes: {', '.join(unknown)} is not in config.data.classes"
            )
        return DetectionTransform(
            size=data.image_size,
            scale_range=tuple(data.scale_range),
            rotation=data.rotation,
            upright_classes=tuple(map(self.class_names.index, data.upright_classes)),
            near_objects=data.near_objects,
            kept_share=data.kept_share,
            keep_difficult=data.keep_difficult,
            room=data.max_objects,
            fill=encoder.fill_colour(config),
        )
