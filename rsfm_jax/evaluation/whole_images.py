"""Evaluation of a rotated detector on whole images: metrics, a table, pictures, a submission."""

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.data.detection_images import LabelledImage
from rsfm_jax.data.formats import Objects
from rsfm_jax.evaluation import dota_map
from rsfm_jax.evaluation.detection_confusion import confusion_matrix
from rsfm_jax.evaluation.detection_figures import draw_confusion, draw_precision_recall
from rsfm_jax.evaluation.detection_match import Detections, Truths
from rsfm_jax.evaluation.detection_merging import Found, join
from rsfm_jax.evaluation.detection_pictures import Boxes, Picture, draw_detections, picture
from rsfm_jax.evaluation.detection_submission import write_submission
from rsfm_jax.evaluation.detection_table import write_table
from rsfm_jax.evaluation.tiled_detection import Predict, Tiling, detect

log = logging.getLogger(__name__)

PROTOCOLS = {
    "dota_v1": dota_map.DOTA_V1,
    "dota_v1_5": dota_map.DOTA_V1_5,
    "dota_v2": dota_map.DOTA_V2,
    "dior_r": dota_map.DIOR_R,
}
PICTURES = 4  # images in detections.png, the first ones
# What needs labels: the table and two figures.
TABLE, CURVES, CONFUSION = "per_class.md", "precision_recall.png", "confusion.png"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a detector is evaluated.

    Attributes:
      protocol: a key of PROTOCOLS.
      tiling: how images are cut.
      min_score: of the detections in pictures and in the confusion matrix.
    """

    protocol: str
    tiling: Tiling
    min_score: float


def evaluate_whole_images(
    images: Iterable[LabelledImage],
    predict: Predict,
    classes: Sequence[str],
    settings: Settings,
    folder: Path,
) -> dict[str, float]:
    """Detects in every image, scores the detections and shows them.

    Writes `submission.zip` (DOTA Task 1, any images) and `figures/detections.png`; with labels also
    `per_class.md`, `figures/precision_recall.png` and `figures/confusion.png`; without labels an
    earlier evaluation's are removed. With several processes all of them have to call it; the first
    one writes.

    Args:
      images: with labels all or none; see `data.detection_images`.
      predict: tiles uint8 [B, S, S, 3] -> detections in pixels of the tiles, B and S those of
        `settings.tiling`; whole on every process.
      classes: names that labels and detections index.
      settings: the protocol and the tiles.
      folder: where to write.

    Returns:
      `mAP50`, `mAP50:95` and `AP50/CLASS` (NaN or left out where there are no objects); nothing
      without labels.
    """
    names, found = [], []
    objects: list[Objects] = []
    pictures: list[Picture] = []
    for image, detected in detect(images, predict, settings.tiling):
        if len(pictures) < PICTURES:
            pictures.append(_picture(image, detected, settings.min_score))
        names.append(image.name)
        found.append(detected)
        if image.objects is not None:
            objects.append(image.objects)
    detections = _detections(found)
    truths = _truths(objects) if len(objects) == len(names) else None
    evaluation = None
    if truths is not None:
        protocol = PROTOCOLS[settings.protocol]
        evaluation = dota_map.evaluate(
            detections, truths, classes, protocol, dota_map.COCO_THRESHOLDS
        )
    if jax.process_index() == 0:
        named = dataclasses.replace(detections, image=np.array(names)[detections.image])
        write_submission(folder / "submission.zip", named, classes)
        figures = folder / "figures"
        draw_detections(figures / "detections.png", pictures, classes, settings.min_score)
        if evaluation:
            note = f"{len(names)} images, protocol {settings.protocol}"
            write_table(folder / TABLE, evaluation, note)
            draw_precision_recall(figures / CURVES, evaluation)
            matrix = confusion_matrix(detections, truths, len(classes), settings.min_score)
            draw_confusion(figures / CONFUSION, matrix, classes)
        else:
            for file in (folder / TABLE, figures / CURVES, figures / CONFUSION):
                file.unlink(missing_ok=True)
            count = len(detections.scores)
            log.info("%d detections in %d images without labels", count, len(names))
    return evaluation.metrics() if evaluation else {}


def _detections(found: list[Found]) -> Detections:
    """Of all images; `image` is the image's number."""
    boxes, scores, labels = join(found)
    numbers = np.repeat(np.arange(len(found)), [len(one.scores) for one in found])
    return Detections(numbers, to_corners(boxes), labels, scores)


def _truths(objects: list[Objects]) -> Truths:
    numbers = np.repeat(np.arange(len(objects)), [len(one.labels) for one in objects])
    polygons, labels, difficult = map(np.concatenate, zip(*objects, strict=True))
    return Truths(numbers, polygons.astype(np.float64), labels, difficult > 0)


def _picture(image: LabelledImage, found: Found, min_score: float) -> Picture:
    truths = image.objects and Boxes(image.objects.polygons, image.objects.labels)
    shown = found.where(found.scores >= min_score)
    return picture(image.name, image.pixels, truths, Boxes(to_corners(shown.boxes), shown.classes))
