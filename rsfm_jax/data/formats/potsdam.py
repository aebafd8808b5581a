"""ISPRS Potsdam: colour labels, both class protocols, the published tile lists."""

import numpy as np

from rsfm_jax.data.formats import IGNORE, Report, stop

CLASSES_6 = ("impervious surface", "building", "low vegetation", "tree", "car", "clutter")
# The line of RSP, RVSA and S5 (and of the paper's numbers): clutter neither trains nor counts.
CLASSES_5 = CLASSES_6[:5]

COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
BOUNDARY = (0, 0, 0)  # of the labels with eroded boundaries, and outside the scene
_TOLERANCE = 8  # levels by which a channel may be off full or none, as in resaved label files

TRAIN_TILES = (
    *("2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12"),
    *("5_10", "5_11", "5_12", "6_7", "6_8", "6_9", "6_10", "6_11", "6_12"),
    *("7_7", "7_8", "7_9", "7_10", "7_11", "7_12"),
)
TEST_TILES = (
    *("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15"),
    *("5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"),
)

RGB = "2_Ortho_RGB"
_FILES = {
    "RGB": RGB + "/top_potsdam_{tile}_RGB.tif",
    "IRRG": "3_Ortho_IRRG/top_potsdam_{tile}_IRRG.tif",
    "no_boundary": "5_Labels_all_noBoundary/top_potsdam_{tile}_label_noBoundary.tif",
    "full": "5_Labels_all/top_potsdam_{tile}_label.tif",
}


def files(tile: str, bands: str, labels: str) -> tuple[str, str]:
    """Where the download keeps a tile's image and labels.

    Args:
      tile: such as 2_10.
      bands: RGB or IRRG.
      labels: no_boundary or full.
    """
    return _FILES[bands].format(tile=tile), _FILES[labels].format(tile=tile)


def _lookup() -> np.ndarray:
    """Class by colour code (4, 2, 1 for red, green, blue); -1 where no class has the colour."""
    table = np.full(8, -1, np.int16)
    for label, colour in enumerate((*COLOURS, BOUNDARY)):
        code = sum(bit for bit, level in zip((4, 2, 1), colour, strict=True) if level)
        table[code] = label if label < len(COLOURS) else IGNORE
    return table


_TABLE = _lookup()


def decode_mask(colours: np.ndarray, where: str, classes: int, bad: Report = stop) -> np.ndarray:
    """Colour labels uint8 [H, W, 3] -> class indices uint8 [H, W], 255 = ignored.

    Args:
      classes: 6, or 5 to ignore clutter.

    An unknown colour is reported with its place and becomes 255.
    """
    code = (colours > 127) @ np.array([4, 2, 1], np.uint8)  # [H, W]
    mask = _TABLE[code]
    unclear = (np.minimum(colours, 255 - colours) > _TOLERANCE).any(-1) | (mask < 0)
    if unclear.any():
        y, x = np.argwhere(unclear)[0]
        bad(
            f"{where}: unknown colour {tuple(colours[y, x].tolist())} at x {x}, y {y} "
            f"({unclear.sum()} such pixels)"
        )
    ignored = unclear | (mask >= classes)
    return np.where(ignored, IGNORE, mask).astype(np.uint8)
