"""Crops on the host, uint8 in and uint8 out; flips and normalising happen on the device.

Resampling: OpenCV's INTER_AREA where the crop shrinks both ways, which averages over every
source pixel and so does not alias, INTER_CUBIC (bicubic) otherwise. OpenCV's bicubic itself
does not antialias. Pillow's bicubic does, from which the result differs by 1.5 to 2.3 grey levels
(root mean square, real scenes), but decoding and cropping then take 1.6 to 2.3 times as long
(docs/input.md).
"""

import math

import cv2
import numpy as np


def crop_example(
    example: dict, rng: np.random.Generator, size: int, scale: tuple[float, float] = (0.2, 1.0)
) -> dict[str, np.ndarray]:
    """Pretraining's and classification's `Transform`: {"image", "label" where there is one}."""
    labels = {"label": np.array(example["label"], np.int32)} if "label" in example else {}
    return {"image": random_resized_crop(example["image"], rng, size, scale)} | labels


def random_resized_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    size: int,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random part of the image, resampled to a square.

    The part is drawn as torchvision's RandomResizedCrop does: area uniform in `scale` (a share
    of the image), width / height log-uniform in `ratio`, position uniform; after ten draws that
    do not fit, the largest central part with an allowed aspect. The defaults are those of MAE
    pretraining (https://arxiv.org/abs/2111.06377, appendix A.1).

    Args:
      image: uint8 [H, W, 3].
      size: pixels a side of the result.

    Returns:
      uint8 [size, size, 3].
    """
    top, left, height, width = draw_crop(image.shape[0], image.shape[1], rng, scale, ratio)
    return resize(image[top : top + height, left : left + width], (size, size))


def draw_crop(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """The part that `random_resized_crop` takes: top, left, height, width in pixels."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width = round(math.sqrt(area * aspect))
        crop_height = round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    aspect = min(max(width / height, ratio[0]), ratio[1])
    crop_width = min(width, round(height * aspect))
    crop_height = min(height, round(width / aspect))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def resize_center_crop(image: np.ndarray, size: int, share: float = 1.0) -> np.ndarray:
    """A central square, resampled to `size` pixels a side, for evaluation.

    Unlike the usual 87.5 % crop it keeps the whole shorter side unless told: scenes seen from
    above have no subject in the middle.

    Args:
      image: uint8 [H, W, 3].
      size: pixels a side of the result.
      share: of the shorter side that the square takes, in (0, 1].

    Returns:
      uint8 [size, size, 3].
    """
    height, width = image.shape[:2]
    side = max(1, round(share * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top : top + side, left : left + side], (size, size))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] resampled to `size`, (width, height) in pixels; itself at its own size."""
    height, width = image.shape[:2]
    if size == (width, height):
        return image
    shrinks = width >= size[0] and height >= size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=method)
