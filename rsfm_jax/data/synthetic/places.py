"""Kinds of place. Each function lays one out on a canvas; to add a kind, add one to PLACES.

All kinds share the same roads, houses, trees, cars and ground colours, so that a kind shows in
its structure and not in its colours.
"""

from collections.abc import Callable

import numpy as np

from rsfm_jax.data.synthetic import objects as put
from rsfm_jax.data.synthetic.canvas import Canvas

GRASS = np.array([112, 126, 78])
SOIL = np.array([150, 124, 94])
SAND = np.array([186, 172, 140])
CROPS = np.array([[122, 138, 74], [158, 146, 88], [142, 112, 82], [88, 118, 70], [178, 164, 116]])
WATER = np.array([62, 88, 98])
CAR, LORRY = (9.0, 4.2), (24.0, 5.6)  # length and width, units


def _cuts(c: Canvas, low: float, high: float) -> np.ndarray:
    """Increasing positions from -reach to beyond +reach with steps in [low, high]."""
    steps = c.rng.uniform(low, high, int(2 * c.reach / low) + 2)
    return (np.cumsum(steps) - steps[0] - c.reach)[np.cumsum(steps) < 2 * c.reach + 2 * high]


def _grid(xs, ys) -> np.ndarray:
    """All pairs of two lists of positions, [N, 2]."""
    return np.stack(np.meshgrid(xs, ys, indexing="ij"), -1).reshape(-1, 2)


def _boxes(centres, w, h, theta=0.0) -> np.ndarray:
    """Centres [N, 2] with sides and angle, each one number or [N] -> boxes [N, 5]."""
    centres = np.asarray(centres, float).reshape(-1, 2)
    sides = (np.broadcast_to(value, len(centres)) for value in (w, h, theta))
    return np.column_stack([centres, *sides])


def _ground(c: Canvas) -> None:
    colour, cover = [(GRASS, "grass"), (SOIL, "barren"), (SAND, "barren")][c.rng.integers(3)]
    c.ground(colour, cover)


def _traffic(c: Canvas, y: float, lane: float) -> None:
    """Cars and a few lorries along a road at height y; one lane each way."""
    xs = _cuts(c, 22, 90)
    side = c.rng.choice([-1, 1], len(xs))
    spots = _boxes(np.column_stack([xs, y + side * lane]), *CAR, np.where(side > 0, 0, np.pi))
    lorry = c.rng.random(len(xs)) < 0.2
    spots[lorry, 2:4] = LORRY
    # A lorry needs more room than a car before the next one.
    lorry[1:] &= np.diff(xs) > 30
    spots[~lorry, 2:4] = CAR
    put.vehicles(c, spots[~lorry])
    put.vehicles(c, spots[lorry], "large-vehicle")


def farmland(c: Canvas) -> None:
    """Parcels with rows in one of two directions, tracks, hedges, sometimes a farm or a pivot."""
    _ground(c)
    ys = _cuts(c, 60, 110)
    for top, bottom in zip(ys[:-1], ys[1:], strict=True):
        xs = _cuts(c, 45, 150)
        for left, right in zip(xs[:-1], xs[1:], strict=True):
            w, h = right - left - 3, bottom - top - 4
            centre = ((left + right) / 2, (top + bottom) / 2)
            colour = c.shades(CROPS[c.rng.integers(len(CROPS))], 1, 0.12)[0]
            c.boxes(_boxes(centre, w, h), colour, "agriculture")
            step, dark = c.rng.uniform(4, 9), (colour * c.rng.uniform(0.72, 0.9)).astype(np.uint8)
            if c.rng.random() < 0.5:
                rows = np.arange(left + 3 + step / 2, right - 2, step)
                c.boxes(_boxes(np.column_stack([rows, 0 * rows + centre[1]]), step / 2, h), dark)
            else:
                rows = np.arange(top + 4 + step / 2, bottom - 2, step)
                c.boxes(_boxes(np.column_stack([0 * rows + centre[0], rows]), w, step / 2), dark)
            if c.rng.random() < 0.12:
                for part in (0.48, 0.36, 0.24, 0.12):
                    shade = (colour * (0.8 + 0.5 * (part in (0.36, 0.12)))).clip(0, 255)
                    c.discs([centre], part * min(w, h), shade.astype(np.uint8))
    track = ys[c.rng.integers(len(ys) // 3, 2 * len(ys) // 3 + 1)]
    put.road(c, (-c.reach, track), (c.reach, track), 9, marked=False)
    hedge = _cuts(c, 7, 13)
    put.trees(c, np.column_stack([hedge, 0 * hedge + track + 12]), c.rng.uniform(3, 6, len(hedge)))
    if c.rng.random() < 0.6:
        yard = c.rng.uniform(-60, 60)
        put.houses(c, [(yard, track - 24, 38, 20, 0), (yard + 40, track - 26, 22, 16, np.pi / 2)])
        put.tanks(c, [(yard - 32, track - 20)], 6)
    _traffic(c, track, 0)


def residential(c: Canvas) -> None:
    """Streets in a grid, houses in rows behind their lawns, pools, garden trees, parked cars."""
    _ground(c)
    street, cross = _cuts(c, 92, 104), _cuts(c, 150, 240)
    width = c.rng.uniform(13, 17)
    for x in cross:
        put.road(c, (x, -c.reach), (x, c.reach), width, marked=False)
    for y in street:
        put.road(c, (-c.reach, y), (c.reach, y), width, marked=True)
    lot = c.rng.uniform(31, 38)
    plots = _grid(np.arange(-c.reach, c.reach, lot), street)
    plots = plots[np.abs(plots[:, :1] - cross).min(1) > width / 2 + 17]
    for side in (-1, 1):
        homes = plots + [0, side * 25]
        wide = c.rng.uniform(20, 27, len(homes))
        put.houses(c, _boxes(homes, wide, c.rng.uniform(14, 19, len(homes))))
        pool = c.rng.random(len(homes)) < 0.22
        put.pools(c, _boxes(homes[pool] + [4, side * 17], 13, 7))
        planted = homes[~pool]
        put.trees(c, planted + [7, side * 16], c.rng.uniform(3, 6.5, len(planted)))
        drive = homes[c.rng.random(len(homes)) < 0.6] + [lot / 2 - 1.5, -side * 8]
        c.boxes(_boxes(drive, 7, 16), put.CONCRETE, "paved")
        put.vehicles(c, _boxes(drive, *CAR, side * np.pi / 2))
    for y in street:
        _traffic(c, y, width / 4)


def harbor(c: Canvas) -> None:
    """A straight quay, piers at right angles with moored ships, containers and cranes behind."""
    _ground(c)
    shore = c.rng.uniform(-70, 10)
    c.boxes((0, shore + 2 * c.reach, 4 * c.reach, 4 * c.reach, 0), c.shades(WATER, 1), "water")
    c.boxes((0, shore - 25, 4 * c.reach, 50, 0), put.CONCRETE, "paved")
    c.boxes((0, shore - 60, 4 * c.reach, 14, 0), put.ASPHALT, "road")
    stacks = _grid(np.arange(-c.reach, c.reach, 26), shore - np.array([40, 33, 26]))
    stacks = stacks[c.rng.random(len(stacks)) < 0.7]
    paint = put.PAINT[c.rng.integers(len(put.PAINT), size=len(stacks))]
    c.boxes(_boxes(stacks, 24, 6), c.shades(paint, len(stacks)), "other")
    gap, length = c.rng.uniform(48, 80), c.rng.uniform(90, 150)
    piers = np.arange(-c.reach, c.reach, gap)
    pier = _boxes(np.column_stack([piers, 0 * piers + shore + length / 2]), 9, length)
    c.boxes(pier, put.CONCRETE, "paved")
    c.label("harbor", pier)
    beam = c.rng.uniform(8, 11)
    berths = _grid(piers, np.arange(shore + 14, shore + length - 8, beam + 4))
    long = c.rng.uniform(0.55, 1.0, len(berths)) * (gap - 12) / 2
    for side in (-1, 1):
        taken = c.rng.random(len(berths)) < 0.75
        moored = berths[taken] + np.column_stack([side * (6 + long[taken] / 2), 0 * long[taken]])
        heading = 0 if side > 0 else np.pi
        put.ships(c, _boxes(moored, long[taken], beam * 0.8, heading))
    out = np.arange(-c.reach, c.reach, 150) + c.rng.uniform(0, 60)
    put.ships(c, _boxes(np.column_stack([out, 0 * out + shore + length + 40]), 110, 20))
    cranes = _boxes(np.column_stack([piers + gap / 2, 0 * piers + shore - 4]), 10, 34)
    c.shadows(put.corners(cranes), 12)
    c.boxes(cranes, (196, 120, 50), "other")
    c.label("container-crane", cranes)
    inland = np.arange(-c.reach, c.reach, 90)
    put.halls(c, _boxes(np.column_stack([inland, 0 * inland + shore - 105]), 74, 46))
    _traffic(c, shore - 60, 3.2)


def airport(c: Canvas) -> None:
    """A marked runway, taxiways, an apron with airliners side by side, a terminal, a helipad."""
    _ground(c)
    runway, apron = c.rng.uniform(60, 85), c.rng.uniform(-60, -35)
    wide = 2 * c.reach
    c.boxes((0, apron, 2 * wide, 96, 0), put.CONCRETE, "paved")
    c.boxes([(0, runway, 2 * wide, 34, 0), (0, 28, 2 * wide, 12, 0)], put.ASPHALT, "road")
    links = np.arange(-c.reach, c.reach, c.rng.uniform(90, 130))
    c.boxes(_boxes(np.column_stack([links, 0 * links + 34]), 11, 70), put.ASPHALT, "road")
    dashes = np.arange(-c.reach, c.reach, 22)
    c.boxes(_boxes(np.column_stack([dashes, 0 * dashes + runway]), 12, 1.6), put.WHITE)
    c.boxes([(0, runway + side * 15.5, 2 * wide, 1.2, 0) for side in (-1, 1)], put.WHITE)
    c.boxes((0, 28, 2 * wide, 0.9, 0), (205, 180, 70))
    span = c.rng.uniform(38, 58)
    stands = np.arange(-c.reach + c.rng.uniform(0, 40), c.reach, span * 1.22)
    stands = stands[c.rng.random(len(stands)) < 0.85]
    c.boxes(_boxes(np.column_stack([stands, 0 * stands + apron]), 0.9, 80), (205, 180, 70))
    length = c.rng.uniform(0.95, 1.1) * span
    put.planes(
        c, _boxes(np.column_stack([stands, 0 * stands + apron - 8]), length, span, -np.pi / 2)
    )
    rolling = c.rng.uniform(-c.reach, c.reach, 2)
    put.planes(c, _boxes([(rolling[0], runway)], 46, 44))
    halls = np.arange(-c.reach, c.reach, 130)
    put.halls(c, _boxes(np.column_stack([halls, 0 * halls + apron - 72]), 126, 34))
    service = stands[::2] + span * 0.6
    put.vehicles(
        c, _boxes(np.column_stack([service, 0 * service + apron + 30]), *LORRY), "large-vehicle"
    )
    if c.rng.random() < 0.5:
        pad = np.array([[c.rng.uniform(-80, 80), runway + 48]])
        c.discs(pad, 13, put.ASPHALT, "paved")
        for x, w, h in ((-4, 2, 14), (4, 2, 14), (0, 8, 2)):
            c.boxes(_boxes(pad + [x, 0], w, h), put.WHITE)
        c.label("helipad", _boxes(pad, 26, 26))


def forest(c: Canvas) -> None:
    """Close crowns around a winding river or road, clearings, sometimes a bridge."""
    _ground(c)
    xs = np.linspace(-c.reach, c.reach, 48)
    phase, wave = c.rng.uniform(0, 2 * np.pi), c.rng.uniform(60, 110)
    middle = c.rng.uniform(15, 45) * np.sin(xs / wave + phase)
    wet, width = c.rng.random() < 0.5, c.rng.uniform(14, 30)
    colour, cover = (WATER, "water") if wet else (put.ASPHALT, "road")
    spacing = c.rng.uniform(13, 16)
    stand = _grid(np.arange(-c.reach, c.reach, spacing), np.arange(-c.reach, c.reach, spacing))
    stand += c.rng.uniform(-0.32, 0.32, stand.shape) * spacing
    free = np.abs(stand[:, 1] - np.interp(stand[:, 0], xs, middle)) > width / 2 + 9
    for hole in c.rng.uniform(-c.reach, c.reach, (3, 2)):
        free &= np.linalg.norm(stand - hole, axis=1) > c.rng.uniform(18, 42)
    stand = stand[free]
    c.line(np.column_stack([xs, middle]), width + 5, c.shades(SAND, 1)[0], "barren")
    c.line(np.column_stack([xs, middle]), width, c.shades(colour, 1)[0], cover)
    put.trees(
        c, stand, c.rng.uniform(0.45, 0.66, len(stand)) * spacing,
        leaves=put.LEAVES * c.rng.uniform(0.85, 1.3),
    )  # fmt: skip
    if wet:
        x = c.rng.uniform(-50, 50)
        y = np.interp(x, xs, middle)
        put.road(c, (x, -c.reach), (x, c.reach), 12, marked=True)
        # The wave meets the straight road at a slant, so the span is a little over the width.
        c.label("bridge", [(x, y, width + 12, 14, np.pi / 2)])


def parking(c: Canvas) -> None:
    """Double rows of marked stalls filled with cars, lanes between, islands with trees."""
    c.ground(put.ASPHALT * c.rng.uniform(0.8, 1.5), "paved")
    module = c.rng.uniform(38, 44)
    rows = np.arange(-c.reach, c.reach, module)
    lane = rows[len(rows) // 2] + module / 2
    shop = c.rng.choice([-1, 1]) * c.rng.uniform(95, 130)
    rows = rows[np.abs(rows - shop) > 60]
    stalls = np.arange(-c.reach, c.reach, 6.2)
    full = c.rng.uniform(0.45, 0.9)
    island = np.arange(-c.reach + 31, c.reach, 6.2 * 14)
    c.boxes([(0, y, 4 * c.reach, 0.7, 0) for y in rows], put.WHITE)
    c.boxes(_boxes(_grid(stalls - 3.1, rows), 0.7, 22), put.WHITE)
    for side in (-1, 1):
        spots = _grid(stalls, rows + side * 5.6)
        taken = c.rng.random(len(spots)) < full
        taken &= np.abs(spots[:, :1] - island).min(1) > 9
        put.vehicles(c, _boxes(spots[taken], *CAR, side * np.pi / 2))
    beds = _grid(island, rows)
    c.boxes(_boxes(beds, 11, 22), GRASS, "grass")
    put.trees(c, beds, c.rng.uniform(4, 6, len(beds)))
    parked = np.arange(-c.reach, c.reach, 70) + c.rng.uniform(0, 30)
    lorries = _boxes(np.column_stack([parked, 0 * parked + lane]), *LORRY)
    put.vehicles(c, lorries[c.rng.random(len(lorries)) < 0.5], "large-vehicle")
    halls = np.arange(-c.reach, c.reach, 118)
    put.halls(c, _boxes(np.column_stack([halls, 0 * halls + shop]), 110, 56))


def industrial(c: Canvas) -> None:
    """Rows of large halls with loading yards, a tank farm, a railway."""
    _ground(c)
    for row, y in enumerate(_cuts(c, 105, 135)):
        c.boxes((0, y, 4 * c.reach, 16, 0), put.ASPHALT, "road")
        c.boxes((0, y + 50, 4 * c.reach, 84, 0), put.CONCRETE, "paved")
        if row % 3 == 2:
            pitch = c.rng.uniform(27, 36)
            along = np.arange(-c.reach, c.reach, pitch)
            put.tanks(c, _grid(along, y + 14 + pitch * np.array([0.6, 1.6])), pitch * 0.4)
        else:
            xs = _cuts(c, 80, 150)
            middle = (xs[:-1] + xs[1:]) / 2
            spots = np.column_stack([middle, 0 * middle + y + 60])
            put.halls(c, _boxes(spots, np.diff(xs) - 16, 58))
            docks = np.arange(-c.reach, c.reach, 17)
            docks = docks[c.rng.random(len(docks)) < 0.35]
            lorries = _boxes(np.column_stack([docks, 0 * docks + y + 19]), 18, 5.6, np.pi / 2)
            put.vehicles(c, lorries, "large-vehicle")
        _railway(c, y - 11)
        _traffic(c, y, 4)


def _railway(c: Canvas, y: float) -> None:
    c.boxes((0, y, 4 * c.reach, 8, 0), SOIL * 0.8, "barren")
    ties = np.arange(-c.reach, c.reach, 4)
    c.boxes(_boxes(np.column_stack([ties, 0 * ties + y]), 1.4, 6), (92, 84, 76))
    c.boxes([(0, y + side * 2, 4 * c.reach, 0.8, 0) for side in (-1, 1)], (190, 188, 185))


def sports(c: Canvas) -> None:
    """Plots between paths: a field with a running track, batteries of courts, diamonds."""
    _ground(c)
    plots = _grid(
        np.arange(-c.reach, c.reach, 196) + c.rng.uniform(0, 98),
        np.arange(-c.reach, c.reach, 132) + c.rng.uniform(0, 66),
    )
    for x, y in plots[np.linalg.norm(plots, axis=1) < c.reach + 118]:  # half a plot's diagonal
        (_track, _tennis, _basketball, _diamond)[c.rng.choice(4)](c, x, y)
        put.road(c, (x - 98, y - 66), (x + 98, y - 66), 7, marked=False)
        put.road(c, (x - 98, y - 66), (x - 98, y + 66), 7, marked=False)
        line = np.arange(x - 84, x + 90, 16)
        put.trees(c, np.column_stack([line, 0 * line + y - 58]), 4.5)


def _track(c: Canvas, x: float, y: float) -> None:
    clay = np.array([176, 92, 70])
    for grow, colour, cover in ((0, clay, "paved"), (-9, GRASS * 0.9, "grass")):
        c.boxes((x, y, 100, 92 + 2 * grow, 0), colour, cover)
        c.discs([(x - 50, y), (x + 50, y)], 46 + grow, colour, cover)
    for inset in (3, 6):
        for side in (-1, 1):
            c.boxes((x, y + side * (46 - inset), 100, 0.6, 0), put.WHITE)
    put.courts(c, (x, y, 108, 66, 0), "soccer-ball-field", GRASS)
    for stripe in range(0, 5):
        c.boxes((x - 40 + 20 * stripe, y + 14, 10, 22, 0), GRASS * 0.92)
    c.label("ground-track-field", [(x, y, 192, 92, 0)])


def _tennis(c: Canvas, x: float, y: float) -> None:
    surface = np.array([[92, 128, 96], [164, 98, 72], [80, 108, 148]])[c.rng.integers(3)]
    c.boxes((x, y, 170, 104, 0), surface * 0.8, "paved")
    centres = _grid(x + np.array([-54, 0, 54]), y + np.array([-34, 0, 34]))
    put.courts(c, _boxes(centres, 48, 24), "tennis-court", surface)


def _basketball(c: Canvas, x: float, y: float) -> None:
    surface = np.array([[170, 120, 84], [104, 122, 146], [128, 128, 122]])[c.rng.integers(3)]
    centres = _grid(x + np.array([-44, 44]), y + np.array([-26, 26]))
    put.courts(c, _boxes(centres, 62, 36), "basketball-court", surface)


def _diamond(c: Canvas, x: float, y: float) -> None:
    c.discs([(x, y)], 54, GRASS * 0.85, "grass")
    c.boxes((x, y + 10, 62, 62, np.pi / 4), SOIL, "barren")
    c.boxes((x, y + 10, 44, 44, np.pi / 4), GRASS, "grass")
    c.discs([(x, y + 10)], 7, SOIL, "barren")
    c.label("baseball-diamond", [(x, y + 10, 62, 62, np.pi / 4)])


PLACES: dict[str, Callable[[Canvas], None]] = {
    place.__name__: place
    for place in (farmland, residential, harbor, airport, forest, parking, industrial, sports)
}
