"""The sheet a synthetic scene is drawn on: a picture, its land cover and its labelled boxes."""

import cv2
import numpy as np

# Land cover, fine enough to be mapped onto the classes of both Potsdam and LoveDA.
COVER = (
    "other",
    "road",
    "paved",
    "building",
    "grass",
    "tree",
    "car",
    "water",
    "barren",
    "agriculture",
)
COVER_INDEX = {name: index for index, name in enumerate(COVER)}

_SHIFT = 4  # cv2 draws at 1/16 pixel
_LIGHT = np.array([0.6, 0.8])  # shadows fall along this direction of the picture
_UNIT_SQUARE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (cx, cy, w, h, radians clockwise on screen) [N, 5] -> clockwise corners [N, 4, 2]."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 5)
    local = _UNIT_SQUARE * boxes[:, None, 2:4]  # [N, 4, 2]
    cos, sin = np.cos(boxes[:, 4, None]), np.sin(boxes[:, 4, None])
    x = local[..., 0] * cos - local[..., 1] * sin + boxes[:, 0, None]
    y = local[..., 0] * sin + local[..., 1] * cos + boxes[:, 1, None]
    return np.stack([x, y], -1)


class Canvas:
    """Draws in layout units (1 unit is about 0.5 m) in a frame turned against the picture.

    `reach` is how far (units) the layout must extend from its origin to cover every corner.
    """

    def __init__(self, size: int, rng: np.random.Generator):
        zoom, angle = rng.uniform(0.75, 1.3), rng.uniform(-np.pi, np.pi)
        # Up to 512 px a bigger picture is a sharper one; beyond, it shows more ground.
        self.unit = zoom * min(size, 512) / 256  # pixels a unit
        self.size, self.rng, self.angle = size, rng, angle
        self.reach = size / self.unit * 0.71
        self.turn = self.unit * np.array(
            [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        )
        self.image = np.zeros((size, size, 3), np.uint8)
        self.cover = np.zeros((size, size), np.uint8)
        self._polygons: list[np.ndarray] = []
        self._classes: list[str] = []

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Layout points [..., 2] -> pixel coordinates, 0 at the picture's left and upper edge."""
        return np.asarray(points, np.float64) @ self.turn + self.size / 2

    def shades(self, colour, count: int, spread: float = 0.08) -> np.ndarray:
        """`count` variations of an RGB colour in brightness and a little in hue, uint8 [N, 3]."""
        gain = self.rng.normal(1.0, spread, (count, 1)) + self.rng.normal(0, spread / 4, (count, 3))
        return np.clip(np.asarray(colour) * gain, 0, 255).astype(np.uint8)

    def ground(self, colour, cover: str) -> None:
        """Covers the whole sheet."""
        self.image[:] = self.shades(colour, 1)[0]
        self.cover[:] = COVER_INDEX[cover]

    def fill(self, polygons: np.ndarray, colours, cover: str | None = None) -> None:
        """Fills convex layout polygons [N, K, 2] with one RGB colour or one each [N, 3]."""
        self._fill_pixels(self.pixels(polygons), colours, cover)

    def boxes(self, boxes, colours, cover: str | None = None) -> None:
        """Fills rotated layout boxes [N, 5]."""
        self.fill(corners(boxes), colours, cover)

    def shadows(self, polygons: np.ndarray, height: float) -> None:
        """Darkens the ground beside convex layout polygons [N, K, 2] that stand `height` units."""
        base = self.pixels(polygons)
        both = np.concatenate([base, base + _LIGHT * height * self.unit], 1)  # [N, 2K, 2]
        shade = np.zeros_like(self.cover)
        for points in self._visible(both)[0]:
            cv2.fillConvexPoly(shade, cv2.convexHull(points), 1, cv2.LINE_8, _SHIFT)
        self.image[shade > 0] //= 2

    def discs(self, centres, radii, colours, cover: str | None = None) -> None:
        """Fills circles: layout centres [N, 2], radii [N] (units), one RGB colour or [N, 3]."""
        centres = self.pixels(centres).reshape(-1, 2)
        radii = np.broadcast_to(np.asarray(radii) * self.unit, len(centres))
        colours = np.broadcast_to(colours, (len(centres), 3))
        seen = np.all((centres > -radii[:, None]) & (centres < self.size + radii[:, None]), -1)
        fixed = np.rint((centres[seen] - 0.5) * 2**_SHIFT).astype(int).tolist()
        sizes = np.rint(radii[seen] * 2**_SHIFT).astype(int).tolist()
        for centre, radius, colour in zip(fixed, sizes, colours[seen].tolist(), strict=True):
            cv2.circle(self.image, centre, radius, colour, -1, cv2.LINE_AA, _SHIFT)
            if cover is not None:
                cv2.circle(self.cover, centre, radius, COVER_INDEX[cover], -1, cv2.LINE_8, _SHIFT)

    def line(self, points, width: float, colour, cover: str | None = None) -> None:
        """Draws a polyline through layout points [K, 2], `width` units wide."""
        fixed = [np.rint((self.pixels(points) - 0.5) * 2**_SHIFT).astype(np.int32)]
        thick = max(1, round(width * self.unit))
        colour = np.asarray(colour).tolist()
        cv2.polylines(self.image, fixed, False, colour, thick, cv2.LINE_AA, _SHIFT)
        if cover is not None:
            cv2.polylines(self.cover, fixed, False, COVER_INDEX[cover], thick, cv2.LINE_8, _SHIFT)

    def label(self, name: str, boxes) -> None:
        """Records true boxes [N, 5] of a DOTA class; those centred off the sheet are dropped."""
        polygons = self.pixels(corners(boxes))
        centres = polygons.mean(1)
        inside = np.all((centres >= 0) & (centres < self.size), -1)
        self._polygons.append(polygons[inside])
        self._classes += [name] * int(inside.sum())

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """All recorded boxes: pixel corners float32 [N, 4, 2] and their classes."""
        empty = np.zeros((0, 4, 2))
        return np.concatenate([empty, *self._polygons]).astype(np.float32), tuple(self._classes)

    def _visible(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fixed-point polygons that touch the sheet, and which of the [N] those are."""
        low, high = pixels.min(1), pixels.max(1)
        seen = np.all((high > 0) & (low < self.size), -1)
        # cv2 puts coordinate 0 at the centre of the first pixel; here it is that pixel's edge.
        return np.rint((pixels[seen] - 0.5) * 2**_SHIFT).astype(np.int32), seen

    def _fill_pixels(self, pixels: np.ndarray, colours, cover: str | None) -> None:
        points, seen = self._visible(pixels)
        colours = np.broadcast_to(colours, (len(seen), 3))[seen].tolist()
        for polygon, colour in zip(points, colours, strict=True):
            cv2.fillConvexPoly(self.image, polygon, colour, cv2.LINE_AA, _SHIFT)
        if cover is not None:
            for polygon in points:
                cv2.fillConvexPoly(self.cover, polygon, COVER_INDEX[cover], cv2.LINE_8, _SHIFT)
