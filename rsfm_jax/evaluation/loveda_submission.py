"""Submissions to LoveDA's test server: a flat zip of one PNG a test image."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from rsfm_jax.data.formats import loveda
from rsfm_jax.errors import UserError
from rsfm_jax.files import write_zip


def write_submission(path: Path, maps: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes `path` (a zip), taking one class map after the other.

    The server wants class indices 0..6, not the 1..7 of the published masks: mmsegmentation adds
    the one back, and the server fails on the value 7 (its issue 3279).

    Args:
      path: what stood there stays when it fails.
      maps: (image name, class map uint8 [H, W]); `Test/Rural/4191.png` is entered as `4191.png`.

    Raises:
      UserError: a value above 6, two images of one name, or no image, by its name.
    """
    write_zip(Path(path), _members(maps, path))


def _members(maps: Iterable[tuple[str, np.ndarray]], path: Path) -> Iterator[tuple[str, bytes]]:
    seen = set()
    for name, classes in maps:
        member = f"{PurePosixPath(name).name.removesuffix('.png')}.png"
        if member in seen:
            raise UserError(f"{name}: a second {member}, but a submission is one flat folder")
        if classes.max() >= len(loveda.CLASSES):
            raise UserError(
                f"{name}: value {classes.max()}, but submitted classes are 0 to "
                f"{len(loveda.CLASSES) - 1}, background to agriculture"
            )
        seen.add(member)
        yield member, cv2.imencode(".png", classes)[1].tobytes()
    if not seen:
        raise UserError(f"{path}: no images to submit")
