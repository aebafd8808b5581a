"""What the config says of evaluating a detector on whole images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rsfm_jax.data.detection_images import LabelledImages, open_labelled_images
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.sliding_windows import Windows
from rsfm_jax.evaluation.tiled_detection import Tiling
from rsfm_jax.evaluation.whole_images import PROTOCOLS, Settings, evaluate_whole_images
from rsfm_jax.models.roi_head import Detections
from rsfm_jax.sharding.mesh import Placement
from rsfm_jax.sharding.rules import batch_sharding
from rsfm_jax.tasks.encoder import fill_colour
from rsfm_jax.training.validate import AT_LEAST_0, AT_LEAST_1, SHARE, TEXT, Rule

RULES: dict[str, Rule] = {
    "eval.source": TEXT,
    "eval.split": TEXT,
    "eval.batch_size": AT_LEAST_1,
    "eval.protocol": (lambda x: x in PROTOCOLS, "one of " + ", ".join(PROTOCOLS)),
    "eval.tile_overlap": AT_LEAST_0,
    "eval.scales": (
        lambda x: len(x) > 0 and all(s >= 1 or (s > 0 and 1 / s == round(1 / s)) for s in x),
        "factors of the image size, each 1 / n or not below 1",
    ),
    "eval.min_score_shown": SHARE,
}


class WholeImages:
    """Evaluation on the images of `config.eval.source`, that of training unless given.

    Raises:
      UserError: tiles that overlap by their whole size.
    """

    def __init__(self, config: Any, mesh: Mesh):
        self.config = config
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        self.settings = _settings(config, shards)
        self._placement = Placement(batch_sharding(mesh), self.settings.tiling.batch_size)
        self._images: LabelledImages | None = None

    def open(self) -> LabelledImages:
        """The images, opened once; see `open_labelled_images` for what is refused.

        To call before training too: a wrong source should not show after hours.
        """
        if self._images is None:
            config = self.config
            source, classes = config.eval.source or config.data.source, tuple(config.data.classes)
            self._images = open_labelled_images(source, config.eval.split, classes)
        return self._images

    def __call__(
        self, predict: Callable[[jax.Array], Detections], folder: Path
    ) -> dict[str, float]:
        """Metrics of `evaluate_whole_images`, whose files go to `folder`.

        Args:
          predict: tiles uint8 [B, S, S, 3], laid out over the mesh -> detections, replicated.
          folder: where to write.
        """

        def place_and_predict(tiles: np.ndarray) -> Detections:
            return predict(self._placement({"image": tiles[self._placement.rows]})["image"])

        classes = tuple(self.config.data.classes)
        return evaluate_whole_images(self.open(), place_and_predict, classes, self.settings, folder)


def _settings(config: Any, shards: int) -> Settings:
    """What the config says, with batches that divide over `shards`."""
    data, evaluation = config.data, config.eval
    if evaluation.tile_overlap >= data.image_size:
        raise UserError(
            f"config.eval.tile_overlap={evaluation.tile_overlap} must be less than "
            f"config.data.image_size={data.image_size}, the side of the tiles"
        )
    tiling = Tiling(
        windows=Windows(data.image_size, data.image_size - evaluation.tile_overlap),
        scales=tuple(evaluation.scales),
        fill=fill_colour(config),
        batch_size=-(-evaluation.batch_size // shards) * shards,
    )
    return Settings(evaluation.protocol, tiling, evaluation.min_score_shown)
