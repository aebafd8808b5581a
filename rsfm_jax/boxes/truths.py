"""Ground truth of images in a fixed number of rows."""

from typing import NamedTuple

import jax
import numpy as np

from rsfm_jax.boxes.geometry import canonical, is_valid

MIN_SIDE = 2.0  # pixels; mmrotate leaves out smaller labels (`poly2obb_np_le90`)


class Truths(NamedTuple):
    """Objects of one image or, with a leading axis, of a batch; numpy or JAX arrays."""

    boxes: jax.Array | np.ndarray  # [..., G, 5] float32, zeros where there is no object
    classes: jax.Array | np.ndarray  # [..., G] int32, in [0, number of classes)
    valid: jax.Array | np.ndarray  # [..., G] bool
    truncated: jax.Array | np.ndarray  # [...] int32, objects that found no room


def pad_truths(boxes: np.ndarray, classes: np.ndarray, room: int) -> Truths:
    """One image's objects, boxes [N, 5] and classes [N], in `room` rows.

    Objects with a side below 2 pixels or an invalid box are left out. Of the others the first
    `room` stay, and the rest are counted.
    """
    boxes = canonical(np.asarray(boxes, np.float32).reshape(-1, 5))  # also after rounding
    usable = is_valid(boxes) & (boxes[:, 2:4].min(axis=1, initial=np.inf) >= MIN_SIDE)
    boxes, classes = boxes[usable], np.asarray(classes, np.int32)[usable]
    kept = min(len(boxes), room)
    return Truths(
        boxes=np.pad(boxes[:kept], ((0, room - kept), (0, 0))),
        classes=np.pad(classes[:kept], (0, room - kept)),
        valid=np.arange(room) < kept,
        truncated=np.array(len(boxes) - kept, np.int32),
    )
