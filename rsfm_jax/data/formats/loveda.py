"""LoveDA: seven classes of land cover in urban and rural scenes."""

import numpy as np

from rsfm_jax.data.formats import IGNORE, Report, stop

CLASSES = ("background", "building", "road", "water", "barren", "forest", "agriculture")
DOMAINS = ("Urban", "Rural")
SPLITS = {"train": "Train", "val": "Val", "test": "Test"}  # by folder

# Of the data set's authors, as in mmsegmentation.
COLOURS = (
    *((255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255)),
    *((159, 129, 183), (0, 255, 0), (255, 195, 128)),
)


def folders(split: str, domain: str) -> tuple[str, str]:
    """Where the download keeps images and masks; those of `test` have no masks."""
    return f"{SPLITS[split]}/{domain}/images_png", f"{SPLITS[split]}/{domain}/masks_png"


def decode_mask(values: np.ndarray, where: str, bad: Report = stop) -> np.ndarray:
    """File values [H, W] (0 = no data, 1..7) -> class indices uint8 [H, W] 0..6, 255 = ignored.

    A value over 7 is reported with its place and becomes 255.
    """
    unknown = values > len(CLASSES)
    if unknown.any():
        y, x = np.argwhere(unknown)[0]
        bad(
            f"{where}: unknown label {values[y, x]} at x {x}, y {y} "
            f"({unknown.sum()} such pixels), LoveDA masks hold 0 to 7"
        )
    ignored = unknown | (values == 0)
    return np.where(ignored, IGNORE, values.astype(np.int64) - 1).astype(np.uint8)
