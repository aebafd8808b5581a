"""Training crops of labelled images on the host, image and mask together.

As mmsegmentation's RandomResize, RandomCrop and padding: a scale is drawn, then a crop that no
class fills. Only the crop's own pixels are resampled, so a crop of a 6000 px tile costs no more
than one of a 512 px image. Flips and colours follow on the device.
"""

from collections.abc import Collection

import cv2
import numpy as np

from rsfm_jax.data.decode import BadImage, decode_mask
from rsfm_jax.data.formats import IGNORE

TRIES = 10  # crops drawn in search of one that no class fills, as mmsegmentation


def crop_pair(
    example: dict,
    rng: np.random.Generator,
    *,
    size: int,
    scale: tuple[float, float],
    max_class_share: float,
    classes: int,
    ignored: Collection[int],
) -> dict[str, np.ndarray]:
    """A random part of image and mask at a random scale: segmentation's `Transform`.

    Args:
      example: "image" uint8 [H, W, 3] and "mask", see `sources.Source`.
      rng: of this element.
      size: pixels a side of the result. Where the scaled image is smaller, the right and the
        bottom are padded.
      scale: range of the factor by which images are enlarged.
      max_class_share: a crop counts as filled when one class has this share of the labelled
        pixels; another is then drawn, `TRIES` at most. 1 takes the first.
      classes: how many there are.
      ignored: mask values that do not train.

    Returns:
      "image" uint8 [size, size, 3], 0 where padded; "mask" uint8 [size, size] with class indices
      and 255, also where padded; "inside" int32 [2], the rows and columns that are not padding.

    Raises:
      BadImage: a mask of another size than its image, or with a value that is no class.
    """
    image, mask = example["image"], class_indices(example, classes, ignored)
    side = max(1, round(size / rng.uniform(*scale)))  # of the crop, in pixels of the image
    height, width = min(side, mask.shape[0]), min(side, mask.shape[1])
    for _ in range(TRIES if max_class_share < 1 else 1):
        top = rng.integers(mask.shape[0] - height + 1)
        left = rng.integers(mask.shape[1] - width + 1)
        part = slice(top, top + height), slice(left, left + width)
        counts = _histogram(mask[part])[:classes]
        if counts.max() < max_class_share * counts.sum():
            break
    rows, columns = (max(1, round(length * size / side)) for length in (height, width))
    # Area averages do not alias where the crop shrinks; mmsegmentation's bilinear weights do.
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    image = cv2.resize(image[part], (columns, rows), interpolation=method)
    mask = cv2.resize(mask[part], (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
    missing = (0, size - rows), (0, size - columns)
    return {
        "image": np.pad(image, (*missing, (0, 0))),
        "mask": np.pad(mask, missing, constant_values=IGNORE),
        "inside": np.array([rows, columns], np.int32),
    }


def class_indices(example: dict, classes: int, ignored: Collection[int]) -> np.ndarray:
    """The example's mask as uint8 [H, W]: 0 .. classes - 1, and 255 for what is ignored.

    Raises:
      BadImage: a mask of another size than its image, or with a value that is no class.
    """
    mask = decode_mask(example["mask"])
    if mask.shape != example["image"].shape[:2]:
        sizes = (f"{x.shape[1]} x {x.shape[0]}" for x in (mask, example["image"]))
        raise BadImage("mask of {} pixels, but its image has {}".format(*sizes))
    table = np.arange(256, dtype=np.uint8)
    table[list(ignored)] = IGNORE
    present = np.flatnonzero(_histogram(mask))
    unknown = present[(present >= classes) & (table[present] != IGNORE)]
    if unknown.size:
        raise BadImage(
            f"mask value {unknown[0]}, but the {classes} classes are 0 to {classes - 1} "
            f"(ignored: {', '.join(map(str, ignored))})"
        )
    return cv2.LUT(mask, table)


def _histogram(mask: np.ndarray) -> np.ndarray:
    """Pixels of each value, float32 [256]."""
    return cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()
