"""Which classes are taken for which."""

import numpy as np

from rsfm_jax.evaluation.detection_match import best_first_pairs


def confusion_matrix(detections, truths, classes, score_threshold, iou_threshold=0.5):
    """Counts [classes + 1, classes + 1]: row the true class, column the detected one.

    The last row holds detections of nothing, the last column objects not detected. Detections of at
    least `score_threshold` and objects of any class are paired one to one, largest IoU first, while
    it exceeds `iou_threshold`.
    """
    detections = detections.where(detections.scores >= score_threshold)
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    detected, true = best_first_pairs(detections, truths, iou_threshold)
    np.add.at(matrix, (truths.labels[true], detections.labels[detected]), 1)
    missed, spurious = np.delete(truths.labels, true), np.delete(detections.labels, detected)
    np.add.at(matrix, (missed, classes), 1)
    np.add.at(matrix, (classes, spurious), 1)
    return matrix
