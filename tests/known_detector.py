"""A stand-in detector that knows the objects: tiles tell by their pixels where they were cut."""

import numpy as np

from rsfm_jax.boxes.geometry import min_area_rectangle, to_hbb
from rsfm_jax.data.detection_images import LabelledImage
from rsfm_jax.models.roi_head import Detections

ROOM = 1500  # detections a tile
BITS = 11  # of a coordinate: images are smaller than 2,048 pixels a side


def number_pixels(images):
    """The images with their own number and each pixel's place, 24 bits, instead of colours."""
    return [
        image._replace(pixels=_codes(number, *image.pixels.shape[:2]))
        for number, image in enumerate(images)
    ]


def plain(height, width, name="P0000", objects=None):
    """An image without pixels worth looking at."""
    return LabelledImage(name, np.zeros((height, width, 3), np.uint8), objects)


def known_detector(find):
    """A `Predict`: `find(image number, x, y, size)` gives boxes, scores, classes of a tile."""

    def predict(tiles):
        codes = tiles[:, 0, 0].astype(np.int64) @ [1 << 16, 1 << 8, 1]
        mask = (1 << BITS) - 1
        places = zip(codes >> 2 * BITS, codes & mask, codes >> BITS & mask, strict=True)
        rows = [padded(*find(*place, tiles.shape[1])) for place in places]
        return Detections(*(np.stack(column) for column in zip(*rows, strict=True)))

    return predict


def find_objects(images, seed=0, jitter=0.05):
    """`find` that gives every object that touches the tile, moved by a part of its shorter side."""
    rng = np.random.default_rng(seed)
    boxes = [min_area_rectangle(np.float64(image.objects.polygons)) for image in images]

    def find(number, x, y, size):
        hbb = to_hbb(boxes[number]) - [x, y, x, y]
        seen = (hbb[:, :2] < size).all(axis=1) & (hbb[:, 2:] > 0).all(axis=1)
        found = boxes[number][seen] - [x, y, 0, 0, 0]
        found[:, :2] += rng.uniform(-jitter, jitter, (len(found), 2)) * found[:, 3:4]
        return found, rng.uniform(0.1, 1, len(found)), images[number].objects.labels[seen]

    return find


def _codes(number, height, width):
    y, x = np.mgrid[:height, :width]
    code = number << 2 * BITS | y << BITS | x
    return np.stack([code >> 16, code >> 8 & 255, code & 255], axis=-1).astype(np.uint8)


def padded(boxes, scores, classes):
    """One tile's row of `Detections`, by falling score."""
    count = len(scores)
    order = np.argsort(-np.asarray(scores), kind="stable")
    room = np.zeros((ROOM, 5), np.float32), np.zeros(ROOM, np.float32), np.zeros(ROOM, np.int32)
    for column, values in zip(room, (boxes, scores, classes), strict=True):
        column[:count] = np.asarray(values)[order]
    return *room, np.arange(ROOM) < count
