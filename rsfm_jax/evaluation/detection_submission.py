"""DOTA Task 1 submissions: a zip of one text file a class, written and read.

Each line of `Task1_CLASS.txt` is `image score x1 y1 x2 y2 x3 y3 x4 y4`.
"""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from rsfm_jax.data.formats.dota import check_image_name
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.detection_match import Detections
from rsfm_jax.files import write_zip

# Scores at 6 decimals: at 2, as some tools write them, many are equal and the ranking is lost.
LINE = "{} {:.6f} " + " ".join(["{:.2f}"] * 8) + "\n"


# What reading a damaged, encrypted or foreign zip raises.
ZIP_ERRORS = (
    *(zipfile.BadZipFile, OSError, zlib.error, EOFError, UnicodeDecodeError),
    *(NotImplementedError, RuntimeError),
)


def write_submission(path, detections, classes):
    """Write `path` (a zip) with a file for every class, empty where nothing was detected.

    Raises:
      UserError: an image name that is empty or holds white space, a label that is no class, a
        number that is not finite.
    """
    path = Path(path)
    _check(detections, classes)
    write_zip(path, _members(detections, classes))


def _check(detections, classes):
    for name in np.unique(detections.image):
        check_image_name(str(name), repr(str(name)))
    numbers = np.isfinite(detections.polygons).all() and np.isfinite(detections.scores).all()
    if not numbers:
        raise UserError("a submission needs finite scores and corners; drop NaN and infinite ones")
    bad = [label for label in np.unique(detections.labels) if not 0 <= label < len(classes)]
    if bad:
        raise UserError(f"label {bad[0]} is none of the {len(classes)} classes of the submission")


def _members(detections, classes):
    for label, name in enumerate(classes):
        rows = detections.where(detections.labels == label)
        order = np.argsort(-rows.scores, kind="stable")
        lines = (
            LINE.format(rows.image[i], rows.scores[i], *rows.polygons[i].ravel()) for i in order
        )
        yield f"Task1_{name}.txt", "".join(lines)


def read_submission(path, classes):
    """Detections of a submission zip; image names are strings.

    Raises:
      UserError: not a zip, a class without its file, or a line that is no detection, by its number.
    """
    images, numbers, labels = [], [], []
    try:
        with zipfile.ZipFile(path) as archive:
            for label, name in enumerate(classes):
                for where, line in _lines(archive, path, f"Task1_{name}.txt"):
                    image, *values = line.split(" ")
                    images.append(image)
                    numbers.append(_numbers(values, where))
                    labels.append(label)
    except ZIP_ERRORS as error:
        raise UserError(f"{path}: not a readable zip: {error}") from None
    numbers = np.array(numbers, np.float64).reshape(-1, 9)
    scores, polygons = numbers[:, 0], numbers[:, 1:].reshape(-1, 4, 2)
    return Detections(np.array(images, str), polygons, np.array(labels, int), scores)


def _lines(archive, path, member):
    try:
        text = io.TextIOWrapper(archive.open(member), encoding="utf-8")
    except KeyError:
        raise UserError(f"{path}: {member} is missing; every class needs its file") from None
    with text:
        for number, line in enumerate(text, start=1):
            if line.strip():
                yield f"{path}: {member}:{number}", line.strip()


def _numbers(values, where):
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if len(numbers) != 9 or not np.isfinite(numbers).all():
        raise UserError(f"{where}: expected an image name, a score and 8 finite coordinates")
    return numbers
