"""Precision, recall and average precision of one class (Pascal VOC)."""

import numpy as np

# As the DOTA and VOC 2007 scripts have them: 0.30000000000000004, 0.6000000000000001 and
# 0.7000000000000001 are among them, so that a recall of exactly 3/10 does not reach the fourth.
VOC07_RECALLS = np.arange(0.0, 1.1, 0.1)


def precision_recall(found, false, objects):
    """Curves over falling score: found, false [N] bool -> recall [N], precision [N].

    `objects`: how many there are to find. Without any, the recall is NaN.
    """
    true_positives, false_positives = np.cumsum(found), np.cumsum(false)
    recall = true_positives / objects if objects else np.full(len(found), np.nan)
    # Before anything counts (only difficult objects so far) the precision is 0, as in the devkit.
    counted = np.maximum(true_positives + false_positives, 1)
    return recall, true_positives / counted


def voc07_average_precision(recall, precision):
    """Mean over eleven recalls of the best precision at that recall or beyond."""
    best = [precision[recall >= level].max(initial=0) for level in VOC07_RECALLS]
    return float(np.mean(best))


def area_average_precision(recall, precision):
    """Area under the precision envelope (VOC 2010 and later)."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, prepend=0.0)
    return float(np.sum(steps * envelope))
