"""Semantic segmentation: UPerNet on ViTDet."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rsfm_jax.data.device import normalize, random_flip
from rsfm_jax.data.loader import Loader
from rsfm_jax.data.photometric import distort
from rsfm_jax.data.segmentation import crop_pair
from rsfm_jax.models.flops import upernet_flops
from rsfm_jax.models.resampling import resize_bilinear
from rsfm_jax.models.segmentation_losses import segmentation_loss
from rsfm_jax.models.upernet import UPerNet
from rsfm_jax.models.vitdet import RELATIVE_POSITIONS
from rsfm_jax.tasks import encoder
from rsfm_jax.tasks.loading import load_batches
from rsfm_jax.tasks.segment_evaluation import TileEvaluation, open_masked, protocol_of
from rsfm_jax.training.state import Batch, Metrics, Variables
from rsfm_jax.training.validate import (
    AT_LEAST_1,
    FLAG,
    PART,
    SHARE,
    TEXT,
    Rule,
    check_values,
)

CLASS_NAMES: Rule = (
    lambda x: 2 <= len(x) <= 254 and len(set(x)) == len(x) and all(isinstance(a, str) for a in x),
    "2 to 254 different names",
)

# What segmentation reads beyond `COMMON_RULES`.
RULES = (
    encoder.RULES
    | encoder.VITDET_RULES
    | {
        "model.channels": AT_LEAST_1,
        "model.auxiliary_channels": AT_LEAST_1,
        "data.classes": CLASS_NAMES,
        "data.colours": (
            lambda x: all(len(rgb) == 3 and 0 <= min(rgb) <= max(rgb) <= 255 for rgb in x),
            "(red, green, blue) of each class in 0..255, or () for a wheel of colours",
        ),
        "data.ignored": (lambda x: all(0 <= a <= 255 for a in x), "mask values in 0..255"),
        "data.scale": (
            lambda x: len(x) == 2 and 0 < x[0] <= x[1],
            "(low, high) with 0 < low <= high",
        ),
        "data.max_class_share": PART,
        "data.photometric": FLAG,
        "data.horizontal_flip": SHARE,
        "data.vertical_flip": SHARE,
        "eval.source": TEXT,
        "eval.split": TEXT,
        "eval.batch_size": AT_LEAST_1,
        "eval.stride": AT_LEAST_1,
        "eval.submission_split": TEXT,
    }
)


class Segment:
    """The `Task` of semantic segmentation (see `rsfm_jax.training.state.Task`).

    Attributes:
      protocol: names and colours of the classes, and the mask values that do not count.
    """

    new_weights: tuple[str, ...] = RELATIVE_POSITIONS
    class_layers: tuple[str, ...] = ("head/classifier/", "auxiliary/classifier/")

    def __init__(self, config: Any, mesh: Mesh):
        check_values(config, RULES)
        self.config = config
        self.protocol = protocol_of(config)
        self.model = UPerNet(
            encoder.vitdet_config(config, mesh.devices.flat[0].platform),
            len(self.protocol.classes),
            config.model.channels,
            config.model.auxiliary_channels,
        )
        self.flops = upernet_flops(self.model)
        self.contract = encoder.image_contract(config) | {"classes": list(self.protocol.classes)}
        self._evaluation = TileEvaluation(config, self.protocol, self.predict, mesh)

    def init(self, rng: jax.Array) -> Variables:
        """Fresh variables, the weights boxed with their logical axes."""
        size = self.config.data.image_size
        return self.model.init(rng, jnp.zeros((1, size, size, 3)))

    def abstract_batch(self) -> Batch:
        """Crops and their masks, and how much of each is not padding (see `crop_pair`)."""
        rows, size = self.config.batch_size, self.config.data.image_size
        return {
            "image": jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8),
            "mask": jax.ShapeDtypeStruct((rows, size, size), jnp.uint8),
            "inside": jax.ShapeDtypeStruct((rows, 2), jnp.int32),
        }

    def prepare(self, batch: Batch, rng: jax.Array) -> Batch:
        """Colours, padding that normalises to zero, flips: {"image", "mask"} as uint8."""
        data = self.config.data
        colour_rng, flip_rng = jax.random.split(rng)
        images = distort(batch["image"], colour_rng) if data.photometric else batch["image"]
        mean = jnp.round(255 * jnp.array(data.mean)).astype(jnp.uint8)
        images = jnp.where(_inside(images.shape[1:3], batch["inside"])[..., None], images, mean)
        pairs = jnp.concatenate([images, batch["mask"][..., None]], -1)  # [B, S, S, 4]
        pairs = random_flip(pairs, flip_rng, data.horizontal_flip, data.vertical_flip)
        return {"image": pairs[..., :3], "mask": pairs[..., 3]}

    def loss(
        self, variables: Variables, inputs: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Metrics, Any]:
        """Cross entropy of both heads, see `segmentation_loss`."""
        images = normalize(inputs["image"], self.config.data.mean, self.config.data.std)
        drop_path, dropout = jax.random.split(rng)
        logits, updated = self.model.apply(
            variables,
            images,
            deterministic=False,
            rngs={"drop_path": drop_path, "dropout": dropout},
            mutable=["batch_stats"],
        )
        return *segmentation_loss(logits, inputs["mask"]), updated["batch_stats"]

    def predict(self, variables: Variables, windows: jax.Array) -> jax.Array:
        """Windows uint8 [B, S, S, 3] -> class scores float32 [B, S, S, C], before the softmax."""
        images = normalize(windows, self.config.data.mean, self.config.data.std)
        return resize_bilinear(self.model.apply(variables, images).main, images.shape[1:3])

    def batches(self, rows: np.ndarray, start_step: int) -> Loader:
        """Random crops of this process's rows, from `start_step` on.

        Raises:
          UserError: training's or evaluation's source cannot be opened or has other classes.
        """
        data = self.config.data
        self._evaluation.open()  # a wrong name shows now, not after the training
        transform = partial(
            crop_pair,
            size=data.image_size,
            scale=tuple(data.scale),
            max_class_share=data.max_class_share,
            classes=len(self.protocol.classes),
            ignored=self.protocol.ignored,
        )
        source = open_masked(data.source, data.split, self.protocol)
        return load_batches(self.config, source, transform, rows, start_step)

    def evaluate(self, variables: Variables, step: int, workdir: Path) -> dict[str, float]:
        """Scores of whole tiles under sliding windows, with pictures; see `TileEvaluation`."""
        return self._evaluation(variables, workdir)


def _inside(shape: tuple[int, ...], inside: jax.Array) -> jax.Array:
    """Which pixels [B, H, W] are not padding, of counts of rows and columns [B, 2]."""
    rows = jnp.arange(shape[0]) < inside[:, :1]
    columns = jnp.arange(shape[1]) < inside[:, 1:]
    return rows[:, :, None] & columns[:, None, :]
