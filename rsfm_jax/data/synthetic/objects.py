"""Things that stand in a synthetic scene. Each draws itself and records its true box."""

import numpy as np

from rsfm_jax.data.synthetic.canvas import Canvas, corners

ROOFS = np.array([[165, 90, 70], [120, 115, 115], [190, 185, 175], [95, 80, 75], [150, 130, 110]])
PAINT = np.array(
    [[235, 235, 235], [40, 40, 45], [150, 155, 160], [170, 40, 40], [45, 70, 130], [200, 190, 160]]
)
LEAVES = np.array([62, 92, 52])
ASPHALT = np.array([105, 105, 108])
CONCRETE = np.array([172, 168, 160])
WHITE = np.array([228, 228, 222])


def _part(boxes: np.ndarray, x: float, y: float, w: float, h: float) -> np.ndarray:
    """Sub-boxes [N, 5]: centre (x, y) and sides (w, h) as fractions of each box's own frame."""
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    dx, dy = x * boxes[:, 2], y * boxes[:, 3]
    moved = boxes.copy()
    moved[:, 0] += dx * cos - dy * sin
    moved[:, 1] += dx * sin + dy * cos
    moved[:, 2] *= w
    moved[:, 3] *= h
    return moved


def _table(boxes) -> np.ndarray:
    return np.asarray(boxes, np.float64).reshape(-1, 5)


def houses(c: Canvas, boxes, height: float = 7) -> None:
    """Gabled roofs [N, 5]: two slopes lit differently, ridge along the first side."""
    boxes = _table(boxes)
    colours = c.shades(ROOFS[c.rng.integers(len(ROOFS), size=len(boxes))], len(boxes))
    c.shadows(corners(boxes), height)
    c.boxes(boxes, colours, "building")
    c.boxes(_part(boxes, 0, 0.25, 1, 0.5), (colours * 0.72).astype(np.uint8))


def halls(c: Canvas, boxes, height: float = 10) -> None:
    """Large flat roofs [N, 5] with a parapet, seams across and vents."""
    boxes = _table(boxes)
    colours = c.shades(np.array([188, 186, 182]), len(boxes), 0.16)
    c.shadows(corners(boxes), height)
    c.boxes(boxes, (colours * 0.8).astype(np.uint8), "building")
    inner = _part(boxes, 0, 0, 0.95, 0.93)
    c.boxes(inner, colours)
    for x in (-0.375, -0.125, 0.125, 0.375):
        c.boxes(_part(inner, x, 0, 0.012, 1), (colours * 0.86).astype(np.uint8))
        c.boxes(_part(inner, x + 0.06, 0.2, 0.05, 0.08), (colours * 0.65).astype(np.uint8))


def trees(c: Canvas, centres, radii, leaves=LEAVES) -> None:
    """Crowns: layout centres [N, 2], radii [N] (units), lit from the upper left of the picture."""
    centres = np.asarray(centres, np.float64).reshape(-1, 2)
    radii = np.broadcast_to(radii, len(centres))
    colours = c.shades(leaves, len(centres), 0.12)
    light = np.linalg.solve(c.turn.T, [-0.28 * c.unit, -0.36 * c.unit])  # picture -> layout
    c.discs(centres - light * radii[:, None] * 1.6, radii, (35, 42, 35))
    c.discs(centres, radii, colours, "tree")
    bright = np.minimum(colours * 1.3, 255).astype(np.uint8)
    c.discs(centres + light * radii[:, None], radii * 0.5, bright)


def vehicles(c: Canvas, boxes, name: str = "small-vehicle") -> None:
    """Cars or lorries [N, 5] (length, width) as `name`, a DOTA class."""
    boxes = _table(boxes)
    colours = c.shades(PAINT[c.rng.integers(len(PAINT), size=len(boxes))], len(boxes))
    c.fill(corners(boxes) + 0.8, (50, 50, 52))
    c.boxes(boxes, colours, "car")
    window = (0.18, 0, 0.16, 0.8) if name == "small-vehicle" else (0.3, 0, 0.05, 1)
    c.boxes(_part(boxes, *window), (45, 52, 60))
    c.label(name, boxes)


def planes(c: Canvas, boxes) -> None:
    """Airliners [N, 5] (length along the nose, wing span) nose towards the first side."""
    boxes = _table(boxes)
    corner = corners(boxes)
    x_axis, y_axis = corner[:, 1] - corner[:, 0], corner[:, 3] - corner[:, 0]
    colours = c.shades(np.array([222, 222, 225]), len(boxes), 0.05)

    def shape(outline):
        uv = np.asarray(outline)  # fractions of the box, [K, 2]
        return (
            corner[:, None, 0]
            + uv[None, :, :1] * x_axis[:, None]
            + uv[None, :, 1:] * y_axis[:, None]
        )

    left = [(0.62, 0.5), (0.45, 0.5), (0.26, 0.0), (0.36, 0.0)]
    parts = [left, [(u, 1 - v) for u, v in left]]
    tail = [(0.16, 0.5), (0.06, 0.5), (0.0, 0.3), (0.06, 0.3)]
    parts += [tail, [(u, 1 - v) for u, v in tail]]
    parts += [[(0, 0.49), (0.1, 0.46), (0.9, 0.45), (1, 0.5), (0.9, 0.55), (0.1, 0.54), (0, 0.51)]]
    for outline in parts:
        c.shadows(shape(outline), 3)
    for outline in parts:
        c.fill(shape(outline), colours, "other")
    c.boxes(_part(boxes, 0.43, 0, 0.03, 0.06), (60, 70, 85))
    c.label("plane", boxes)


def ships(c: Canvas, boxes) -> None:
    """Ships [N, 5] (length, beam) with a pointed bow towards the first side and a cabin."""
    boxes = _table(boxes)
    corner = corners(boxes)
    bow = (corner[:, 1] + corner[:, 2]) / 2
    shoulder_left = 0.25 * corner[:, 0] + 0.75 * corner[:, 1]
    shoulder_right = 0.25 * corner[:, 3] + 0.75 * corner[:, 2]
    hull = np.stack([corner[:, 0], shoulder_left, bow, shoulder_right, corner[:, 3]], 1)
    colours = c.shades(PAINT[c.rng.integers(len(PAINT), size=len(boxes))], len(boxes))
    c.shadows(hull, 2)
    c.fill(hull, colours, "other")
    c.boxes(_part(boxes, -0.3, 0, 0.22, 0.7), WHITE)
    c.boxes(_part(boxes, 0.1, 0, 0.4, 0.5), (colours * 0.7).astype(np.uint8))
    c.label("ship", boxes)


def tanks(c: Canvas, centres, radii) -> None:
    """Round storage tanks: layout centres [N, 2], radii [N] (units)."""
    centres = np.asarray(centres, np.float64).reshape(-1, 2)
    radii = np.broadcast_to(radii, len(centres))
    turns = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    rim = np.stack([np.cos(turns), np.sin(turns)], -1)  # [12, 2]
    c.shadows(centres[:, None] + rim * radii[:, None, None], 7)
    c.discs(centres, radii, (150, 150, 148), "building")
    c.discs(centres, radii * 0.9, c.shades(np.array([215, 213, 208]), len(centres), 0.05))
    c.discs(centres, radii * 0.12, (130, 130, 130))
    upright = np.full_like(radii, -c.angle)  # a circle's box stands upright in the picture
    c.label("storage-tank", np.column_stack([centres, 2 * radii, 2 * radii, upright]))


def pools(c: Canvas, boxes) -> None:
    """Swimming pools [N, 5] with a pale rim."""
    boxes = _table(boxes)
    c.boxes(boxes, (215, 212, 205), "paved")
    c.boxes(_part(boxes, 0, 0, 0.85, 0.8), c.shades(np.array([85, 180, 200]), len(boxes)), "water")
    c.label("swimming-pool", boxes)


def courts(c: Canvas, boxes, name: str, surface) -> None:
    """Tennis courts, basketball courts or soccer fields [N, 5]: surface, lines, labels."""
    boxes = _table(boxes)
    colours = c.shades(surface, len(boxes))
    c.boxes(boxes, colours, "grass" if name == "soccer-ball-field" else "paved")
    inner = _part(boxes, 0, 0, 0.9, 0.86)
    lines = [_part(inner, x, 0, 0.012, 1) for x in (-0.5, 0, 0.5)]
    lines += [_part(inner, 0, y, 1, 0.02) for y in (-0.5, 0.5)]
    if name == "tennis-court":
        lines += [_part(inner, 0, 0, 0.54, 0.02)]
        lines += [_part(inner, x, 0, 0.012, 0.75) for x in (-0.27, 0.27)]
        lines += [_part(inner, 0, y, 1, 0.02) for y in (-0.375, 0.375)]
    c.boxes(np.concatenate(lines), WHITE)
    if name != "tennis-court":
        for x in (-0.42, 0.42):
            c.boxes(_part(inner, x, 0, 0.16, 0.42), WHITE)
            c.boxes(_part(inner, x, 0, 0.14, 0.37), colours)
        c.discs(boxes[:, :2], 0.1 * inner[:, 2], WHITE)
        c.discs(boxes[:, :2], 0.085 * inner[:, 2], colours)
    c.label(name, boxes)


def road(c: Canvas, start, stop, width: float, marked: bool) -> None:
    """A straight road between layout points, with a dashed middle line where `marked`."""
    c.line([start, stop], width, c.shades(ASPHALT, 1)[0], "road")
    if marked:
        start, stop = np.asarray(start, float), np.asarray(stop, float)
        length = np.linalg.norm(stop - start)
        along = np.arange(0, length, 14) / length
        direction = (stop - start) / length
        heads = start + along[:, None] * (stop - start)
        dashes = np.column_stack(
            [heads, np.full((len(along), 2), (7, 0.9)), np.full(len(along), _heading(direction))]
        )
        c.boxes(dashes, WHITE)


def _heading(direction: np.ndarray) -> float:
    return float(np.arctan2(direction[1], direction[0]))
