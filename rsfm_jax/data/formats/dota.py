"""DOTA: text labels of v1.0, v1.5 and v2.0, and patch names (captain-whu.github.io/DOTA)."""

import re

import numpy as np

from rsfm_jax.data.formats import FARTHEST, Objects, Report, polygon_area, stop
from rsfm_jax.errors import UserError

# In the published order of v2.0 (as MTP and mmrotate number them); older versions have fewer.
_CLASSES = (
    *("plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle"),
    *("large-vehicle", "ship", "tennis-court", "basketball-court", "storage-tank"),
    *("soccer-ball-field", "roundabout", "harbor", "swimming-pool", "helicopter"),
    *("container-crane", "airport", "helipad"),
)
CLASSES = {"1.0": _CLASSES[:15], "1.5": _CLASSES[:16], "2.0": _CLASSES}

_HEADER = re.compile(r"(imagesource|gsd)\s*:", re.IGNORECASE)
_PATCH = re.compile(r"(.+)__(\d+(?:\.\d+)?)__(\d+)___(\d+)")


def parse_labels(text: str, where: str, classes: tuple[str, ...], bad: Report = stop) -> Objects:
    """Reads `x1 y1 x2 y2 x3 y3 x4 y4 class [difficult]` lines, with or without header lines.

    Blank lines, a byte order mark and any line ends are fine, and so is a header `gsd:null`.
    A missing difficulty is 0. Anything else is reported as `where:line: reason` and left out.
    """
    rows = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or _HEADER.match(line.strip()):
            continue
        try:
            rows.append(_parse_line(line, classes))
        except ValueError as error:
            bad(f"{where}:{number}: {error}")
    return Objects.stack(rows)


def _parse_line(line: str, classes: tuple[str, ...]) -> tuple[np.ndarray, int, int]:
    fields = line.split()
    if len(fields) not in (9, 10):
        raise ValueError(f"{len(fields)} columns, expected 8 coordinates, a class [, a difficulty]")
    try:
        corners = np.array([float(field) for field in fields[:8]]).reshape(4, 2)
    except ValueError:
        raise ValueError(f"the coordinates {' '.join(fields[:8])!r} are not 8 numbers") from None
    if not (np.abs(corners) < FARTHEST).all():
        raise ValueError("a coordinate is not finite, or over a billion")
    if polygon_area(corners) == 0:
        raise ValueError("polygon of zero area")
    if fields[8] not in classes:
        raise ValueError(f"unknown class {fields[8]!r}, expected one of: {' '.join(classes)}")
    difficult = fields[9] if len(fields) == 10 else "0"
    if not re.fullmatch("[0-9]", difficult):
        raise ValueError(f"the difficulty {difficult!r} is not a digit")
    return corners, classes.index(fields[8]), int(difficult)


def check_image_name(name: str, where: str) -> None:
    """Raises `UserError` for a name, found at `where`, that the lines of results cannot hold."""
    if name.split() != [name]:
        raise UserError(f"{where}: an image's name must be one word to stand in a submission")


def patch_id(image_id: str, scale: float, x: int, y: int) -> str:
    """Name of the patch whose corner is (x, y) in the image resized by `scale`, as in DOTA_devkit.

    `P0003__0.5__824___0` starts at column 824 of image P0003 at half size.
    """
    return f"{image_id}__{scale:g}__{x}___{y}"


def parse_patch_id(patch: str) -> tuple[str, float, int, int]:
    """Inverse of `patch_id`: (image_id, scale, x, y). Raises ValueError for other names."""
    match = _PATCH.fullmatch(patch)
    if not match:
        raise ValueError(f"{patch!r} is not a patch name such as P0003__0.5__824___0")
    image_id, scale, x, y = match.groups()
    return image_id, float(scale), int(x), int(y)
