"""Mean average precision of rotated detection: DOTA Task 1 and DIOR-R.

After the published devkit (`dota_evaluation_task1.py`), on whole images and labelled quadrilaterals
in float64. What differs: equal scores keep their order (the devkit's sort leaves it open), and a
class without objects to find has no average precision (NaN) and no part in the mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rsfm_jax.errors import UserError
from rsfm_jax.evaluation import detection_ap
from rsfm_jax.evaluation.detection_match import match

COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())


@dataclass(frozen=True)
class Protocol:
    """How a benchmark counts.

    average: (recall [N], precision [N]) -> average precision.
    skip_difficult: objects marked difficult need not be found and finding them counts for nothing.
    """

    average: Callable[[np.ndarray, np.ndarray], float]
    skip_difficult: bool


DOTA_V1 = Protocol(detection_ap.voc07_average_precision, skip_difficult=True)
# The v1.5 script reads every difficulty as 0; the v2.0 server is taken to do the same.
DOTA_V1_5 = DOTA_V2 = Protocol(detection_ap.voc07_average_precision, skip_difficult=False)
# As mmrotate's DOTAMetric on DIOR-R: eleven points, every object counts.
DIOR_R = Protocol(detection_ap.voc07_average_precision, skip_difficult=False)


@dataclass(frozen=True)
class Curve:
    """One class at the first IoU threshold, over falling score."""

    scores: np.ndarray  # [N]
    recall: np.ndarray  # [N]
    precision: np.ndarray  # [N]


@dataclass(frozen=True)
class Evaluation:
    """Average precisions, NaN for classes without objects to find."""

    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    average_precision: np.ndarray  # [classes, thresholds]
    objects: np.ndarray  # [classes] how many there were to find
    curves: tuple[Curve, ...]

    @property
    def mean(self):
        """Mean over classes at the first threshold; NaN when no class has objects."""
        return _mean(self.average_precision[:, 0])

    @property
    def mean_over_thresholds(self):
        """Mean over classes and thresholds (AP50:95 with COCO_THRESHOLDS)."""
        return _mean(self.average_precision)

    def metrics(self):
        """Flat numbers for a log: `mAP50`, `mAP50:95` (where computed) and `AP50/CLASS`."""
        name = f"AP{round(100 * self.thresholds[0])}"
        numbers = {f"m{name}": self.mean}
        if len(self.thresholds) > 1:
            last = round(100 * self.thresholds[-1])
            numbers[f"m{name}:{last}"] = self.mean_over_thresholds
        per_class = zip(self.classes, self.average_precision[:, 0], strict=True)
        return numbers | {f"{name}/{c}": float(ap) for c, ap in per_class if not np.isnan(ap)}


def _mean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def evaluate(detections, truths, classes: Sequence[str], protocol: Protocol, thresholds=(0.5,)):
    """Evaluate detections of all images at once.

    Args:
      detections: Detections, in any order.
      truths: Truths of every image evaluated, whether or not anything was detected there.
      classes: names; `labels` index them.
      protocol: DOTA_V1, DOTA_V1_5, DOTA_V2 or DIOR_R.
      thresholds: IoUs to exceed; COCO_THRESHOLDS for AP50:95.

    Returns:
      Evaluation.

    Raises:
      UserError: a label is not the index of a class.
    """
    for name, labels in (("detections", detections.labels), ("truths", truths.labels)):
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
            raise UserError(
                f"{name}.labels must lie in 0..{len(classes) - 1} for {len(classes)} classes, "
                f"got {labels.min()}..{labels.max()}"
            )
    results = [
        _evaluate_class(
            detections.where(detections.labels == label),
            truths.where(truths.labels == label),
            protocol,
            thresholds,
        )
        for label in range(len(classes))
    ]
    average_precision, objects, curves = zip(*results, strict=True)
    return Evaluation(
        tuple(classes),
        tuple(thresholds),
        np.array(average_precision),
        np.array(objects),
        curves,
    )


def _evaluate_class(detections, truths, protocol, thresholds):
    matches = match(detections, truths, protocol.skip_difficult)
    objects = int((~matches.difficult).sum())
    curves = [
        detection_ap.precision_recall(*matches.outcome(threshold), objects)
        for threshold in thresholds
    ]
    averages = [protocol.average(*curve) if objects else np.nan for curve in curves]
    return averages, objects, Curve(matches.scores, *curves[0])
