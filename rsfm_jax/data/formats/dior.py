"""DIOR-R: Pascal VOC XML with rotated boxes as four corners (`robndbox`)."""

import re
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from rsfm_jax.data.formats import FARTHEST, Objects, Report, polygon_area, stop

CLASSES = (
    *("airplane", "airport", "baseballfield", "basketballcourt", "bridge", "chimney"),
    *("expressway-service-area", "expressway-toll-station", "dam", "golffield"),
    *("groundtrackfield", "harbor", "overpass", "ship", "stadium", "storagetank"),
    *("tenniscourt", "trainstation", "vehicle", "windmill"),
)
# Clockwise from the upper left, the order of DOTA.
_CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


def parse_labels(data: bytes, where: str, bad: Report = stop) -> Objects:
    """Reads one annotation file. Class names are compared in lower case.

    Reported, with `where`, and left out: a file that is not XML or declares a document type
    (nothing external is ever read and no entity expanded); an object without robndbox, with an
    unknown class, a corner missing or not a finite number, or of zero area.
    """
    try:
        _refuse_document_type(data)
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        bad(f"{where}: not a readable XML file: {error}")
        return Objects.stack([])
    rows = []
    for number, element in enumerate(root.iter("object"), 1):
        try:
            rows.append(_parse_object(element))
        except ValueError as error:
            bad(f"{where}: object {number}: {error}")
    return Objects.stack(rows)


def _refuse_document_type(data: bytes) -> None:
    def refuse(name, *_):
        raise ValueError(f"it declares a document type {name!r}, label files need none")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(data, True)


def _parse_object(element: ElementTree.Element) -> tuple[np.ndarray, int, int]:
    name = (element.findtext("name") or "").strip().lower()
    if name not in CLASSES:
        raise ValueError(f"unknown class {name!r}, DIOR-R has: {' '.join(CLASSES)}")
    box = element.find("robndbox")
    if box is None:
        raise ValueError("no robndbox: use the folder 'Oriented Bounding Boxes', not 'Horizontal'")
    values = [box.findtext(f"{axis}_{corner}") for corner in _CORNERS for axis in "xy"]
    try:
        corners = np.array([float(value or "") for value in values]).reshape(4, 2)
    except (TypeError, ValueError):
        raise ValueError("robndbox needs x_ and y_ numbers for all four corners") from None
    if not (np.abs(corners) < FARTHEST).all():
        raise ValueError("a coordinate is not finite, or over a billion")
    if polygon_area(corners) == 0:
        raise ValueError("polygon of zero area")
    difficult = (element.findtext("difficult") or "0").strip()
    if not re.fullmatch("[0-9]", difficult):
        raise ValueError(f"the difficulty {difficult!r} is not a digit")
    return corners, CLASSES.index(name), int(difficult)
