"""Scenes painted with bright rectangles, and networks that find those by threshold."""

import cv2
import numpy as np
import rasterio
from affine import Affine

from rsfm_jax.boxes.geometry import canonical
from rsfm_jax.evaluation.sliding_windows import Windows
from rsfm_jax.models.roi_head import Detections
from rsfm_jax.scenes.detection import Detector
from rsfm_jax.scenes.raster import Reading
from rsfm_jax.scenes.segmentation import Segmenter

PLAIN = Reading()
FILL = (124, 116, 104)
SLOTS = 64  # detections a tile
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)  # half a metre a pixel


def paint(height, width, boxes, ground=60, bright=220):
    """uint8 [H, W, 3], bright where a pixel's centre lies in one of the boxes [N, 5]."""
    image = np.full((height, width, 3), ground, np.uint8)
    for x, y, w, h, angle in boxes:
        reach = int(np.hypot(w, h) / 2) + 1
        rows, columns = (slice(max(0, int(c) - reach), int(c) + reach) for c in (y, x))
        part = image[rows, columns]  # [h, w, 3]
        down, right = np.mgrid[: part.shape[0], : part.shape[1]] + 0.5
        down, right = down + rows.start - y, right + columns.start - x
        along = right * np.cos(angle) + down * np.sin(angle)
        across = down * np.cos(angle) - right * np.sin(angle)
        part[(np.abs(along) < w / 2) & (np.abs(across) < h / 2)] = bright
    return image


def random_boxes(rng, height, width, count, longest):
    """Boxes [N, 5] inside the scene, none near another."""
    boxes = []
    for _ in range(50 * count):
        long = rng.uniform(12, min(longest, height / 3, width / 3))
        box = [*rng.uniform((long, long), (width - long, height - long)), long]
        box += [rng.uniform(8, long), rng.uniform(-np.pi / 2, np.pi / 2)]
        apart = (np.hypot(*(np.subtract(box[:2], b[:2]))) > (long + b[2]) * 0.75 for b in boxes)
        if all(apart):
            boxes.append(box)
        if len(boxes) == count:
            break
    return canonical(np.array(boxes))


def write(path, pixels, **profile):
    """Writes [H, W, bands]; UTM at half a metre a pixel unless told otherwise."""
    height, width, count = pixels.shape
    profile = {"crs": "EPSG:32631", "transform": NORTH_UP} | profile
    masked = profile.pop("mask", None)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count,
        dtype=pixels.dtype, **profile,
    ) as target:  # fmt: skip
        target.write(np.moveaxis(pixels, -1, 0))
        if masked is not None:
            target.write_mask(masked)
    return path


def find_rectangles(tiles):
    """Detections of what is brighter than 150; larger ones score higher."""
    results = [np.zeros((len(tiles), SLOTS, *rest)) for rest in ((5,), (), ())]
    boxes, scores, classes = results
    for i, tile in enumerate(np.asarray(tiles)):
        bright = (tile.min(-1) > 150).astype(np.uint8)
        outlines, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for slot, outline in enumerate(outlines[:SLOTS]):
            (x, y), (w, h), angle = cv2.minAreaRect(outline)
            boxes[i, slot] = x + 0.5, y + 0.5, w + 1, h + 1, np.radians(angle)
            scores[i, slot] = 1 - 1 / (1 + w * h)
            classes[i, slot] = w * h > 600
    boxes = canonical(boxes)
    return Detections(boxes, scores, classes.astype(int), scores > 0)


def detector(size, overlap, batch_size=2, predict=find_rectangles):
    """The rectangle finder as a `Detector` of two classes."""
    windows = Windows(size, size - overlap)
    return Detector(predict, ("small", "large"), FILL, batch_size, windows)


def name_brightness(windows):
    """Logits that tell bright from dark."""
    bright = windows.mean(-1) > 150
    return np.stack([~bright, bright], -1).astype(np.float32)


def segmenter(size, overlap):
    """`name_brightness` as a `Segmenter`."""
    windows = Windows(size, size - overlap)
    colours = (0, 0, 0), (255, 255, 0)
    return Segmenter(name_brightness, ("dark", "bright"), colours, FILL, 2, windows)
