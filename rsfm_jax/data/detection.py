"""What detection trains on: views of fixed size with their objects in a fixed number of rows.

Scaling, turning and cropping happen here, on the host, because they change shapes; flips, quarter
turns and normalising are the device's (`symmetries`, `device`). Corners are carried through all of
it and become boxes last, so no step rounds a box.
"""

import dataclasses
import math

import cv2
import numpy as np

from rsfm_jax.boxes.geometry import min_area_rectangle
from rsfm_jax.boxes.truths import pad_truths
from rsfm_jax.data.formats.windows import area_inside
from rsfm_jax.data.transforms import resize
from rsfm_jax.errors import UserError

# A view around an object has the object's centre in this part of it, at random.
CENTRAL = (0.25, 0.75)


@dataclasses.dataclass(frozen=True)
class DetectionTransform:
    """Detection's `Transform`: a decoded example and a random generator -> arrays.

    Attributes:
      size: pixels a side of the view.
      scale_range: (low, high) of the factor that the image is resized by, drawn uniformly.
      rotation: chance of a turn by any angle (mmrotate `PolyRandomRotate`).
      upright_classes: with an object of one of these, whose boxes have no angle to turn by, the
        turn is by a quarter, a half or three quarters (`rect_classes` there).
      near_objects: chance of a view around one of the objects; else anywhere in the image.
      kept_share: objects with less of their area in the view are left out (0.7 in DOTA's patches).
      keep_difficult: whether objects marked difficult train like others, as in mmrotate.
      room: objects that a view can hold; of more any stay, the others are counted.
      fill: RGB where the view has no image.
    """

    size: int
    scale_range: tuple[float, float]
    rotation: float
    upright_classes: tuple[int, ...]
    near_objects: float
    kept_share: float
    keep_difficult: bool
    room: int
    fill: tuple[int, int, int]

    def __call__(self, example: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Image uint8 [S, S, 3] and the `Truths` of one image by name.

        Args:
          example: `image` uint8 [H, W, 3], `polygons` [N, 4, 2] in pixels, `labels` [N] and
            `difficult` [N].
          rng: the example's own.
        """
        chosen = np.full(len(example["labels"]), True)
        if not self.keep_difficult:
            chosen = np.asarray(example["difficult"]) == 0
        labels = np.asarray(example["labels"])[chosen]
        polygons = np.asarray(example["polygons"], np.float64)[chosen]

        image, scale = _scaled(example["image"], rng.uniform(*self.scale_range))
        polygons = polygons * scale
        centre = self._centre(image.shape, polygons, rng)
        angle = self._angle(labels, rng)
        view = _view(image, centre, angle, self.size, self.fill)
        polygons = _turned(polygons - centre, angle) + self.size / 2

        share = area_inside(polygons, 0, 0, self.size, self.size)
        seen = np.flatnonzero(share >= self.kept_share)
        if len(seen) > self.room:
            seen = rng.permutation(seen)
        boxes = min_area_rectangle(polygons[seen])
        return {"image": view, **pad_truths(boxes, labels[seen], self.room)._asdict()}

    def _centre(
        self, shape: tuple[int, ...], polygons: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Centre (x, y) of the view, half its size from a whole pixel.

        The view lies in the image, or the image in the view, along either axis.
        """
        slack = np.array(shape[1::-1]) - self.size  # negative where the view is larger
        low, high = np.minimum(slack, 0), np.maximum(slack, 0)
        corner = rng.integers(low, high, endpoint=True)
        if len(polygons) and rng.random() < self.near_objects:
            target = polygons[rng.integers(len(polygons))].mean(axis=0)
            corner = np.clip(np.rint(target - self.size * rng.uniform(*CENTRAL, 2)), low, high)
        return corner + self.size / 2

    def _angle(self, labels: np.ndarray, rng: np.random.Generator) -> float:
        """Clockwise radians."""
        if rng.random() >= self.rotation:
            return 0.0
        if np.isin(labels, self.upright_classes).any():
            return math.pi / 2 * int(rng.integers(1, 4))
        return rng.uniform(-math.pi, math.pi)


def check_classes(names: tuple[str, ...], classes: tuple[str, ...], source: str) -> None:
    """Holds a source's classes against the config's.

    Raises:
      UserError: it has no labelled objects, or others, or in another order.
    """
    if not names:
        raise UserError(
            f"data source {source!r} has no labelled objects: prepare a detection data set with "
            "python -m data_prep build"
        )
    if names == classes:
        return
    if set(names) == set(classes):
        difference = "in another order"
    else:
        lacks = ", ".join(name for name in classes if name not in names) or "none"
        adds = ", ".join(name for name in names if name not in classes) or "none"
        difference = f"not these: missing {lacks}; unknown {adds}"
    raise UserError(
        f"data source {source!r} has {len(names)} classes, config.data.classes {len(classes)}, "
        f"{difference}"
    )


def _scaled(image: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """The image resized by about a factor, and the exact factors along x and y."""
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return resize(image, size), np.array(size) / (width, height)


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Points [..., 2] turned clockwise on screen about the origin."""
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _view(
    image: np.ndarray, centre: np.ndarray, angle: float, size: int, fill: tuple[int, int, int]
) -> np.ndarray:
    """The square around `centre` after a turn by `angle`; without a turn pixels are copied."""
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    # cv2 counts from pixel centres: target + 0.5 = linear (source + 0.5 - centre) + size / 2.
    shift = linear @ (0.5 - centre) + size / 2 - 0.5
    return cv2.warpAffine(
        image,
        np.column_stack([linear, shift]),
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )
