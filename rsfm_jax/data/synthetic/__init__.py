"""Procedurally drawn aerial scenes with true boxes and land cover: data that needs no download.

`draw_scene(seed)` is a pure function: the same seed gives the same scene in every process.
"""

from typing import NamedTuple

import cv2
import numpy as np

from rsfm_jax.data.synthetic.canvas import COVER, Canvas
from rsfm_jax.data.synthetic.places import PLACES

__all__ = ["COVER", "SCENE_KINDS", "Scene", "draw_scene"]

SCENE_KINDS: tuple[str, ...] = tuple(PLACES)


class Scene(NamedTuple):
    """One drawn scene.

    image: uint8 [H, W, 3] RGB.
    kind: index into SCENE_KINDS.
    polygons: float32 [N, 4, 2], x and y of box corners in pixels (0 = the picture's left or upper
        edge), clockwise on screen. Centres lie inside the picture; corners may lie outside.
    classes: N DOTA class names.
    mask: uint8 [H, W], index into COVER.
    """

    image: np.ndarray
    kind: int
    polygons: np.ndarray
    classes: tuple[str, ...]
    mask: np.ndarray


def draw_scene(seed: int, size: int = 256, kind: str | None = None) -> Scene:
    """Draws scene number `seed` (>= 0), `size` pixels a side, of a given or a drawn kind.

    Raises KeyError for a kind that is not in SCENE_KINDS.
    """
    rng = np.random.default_rng(seed)
    drawn = SCENE_KINDS[rng.integers(len(SCENE_KINDS))]
    kind = drawn if kind is None else kind
    canvas = Canvas(size, rng)
    PLACES[kind](canvas)
    polygons, classes = canvas.labels()
    image = _expose(canvas.image, rng)
    return Scene(image, SCENE_KINDS.index(kind), polygons, classes, canvas.cover)


def _expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uneven ground, haze, white balance, exposure and sensor noise, drawn anew for each scene.

    The brightness and contrast of the result do not depend on what was drawn and its colour
    balance does so only a little, so that colour statistics alone do not tell the kind of place.
    """
    size = image.shape[0]
    uneven = rng.integers(0, 255, (9, 9), dtype=np.uint8)
    uneven = cv2.resize(uneven, (size, size), interpolation=cv2.INTER_LINEAR_EXACT)
    noise = rng.normal(0, rng.uniform(0.8, 2.5), (size, size)).astype(np.float32)
    grey = image.mean(-1, dtype=np.float32)
    chroma = image - grey[..., None]
    chroma -= 0.6 * chroma.mean((0, 1))  # a camera's white balance
    texture = (uneven.astype(np.float32) - 127.5) * 0.07 + noise
    grey = (grey - grey.mean()) / max(float(grey.std()), 4.0)  # a flat picture stays flat
    luma = grey * rng.uniform(34, 48) + rng.uniform(95, 145) + texture
    tint = rng.normal(0, 5, 3).astype(np.float32)
    colour = chroma * np.float32(rng.uniform(6, 16) / max(float(chroma.std()), 4.0)) + tint
    return np.clip(luma[..., None] + colour, 0, 255).astype(np.uint8)
