"""Where a scene's pixels lie on the ground, and how large things there are.

Sizes are geodesic: lengths on the WGS 84 ellipsoid between the ends of a box's two middle lines,
whatever the CRS, so that degrees and the stretched metres of Mercator maps come out as metres on
the ground. A local (engineering) CRS has no place on the ellipsoid: its own units are converted.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyproj
import rasterio
from rasterio.transform import AffineTransformer, GCPTransformer

WGS84 = pyproj.CRS("EPSG:4326")
GEOD = pyproj.Geod(ellps="WGS84")


class Sizes(NamedTuple):
    """Of boxes: metres, and degrees clockwise from north to the side `w`; NaN where unknown."""

    width: np.ndarray  # [N] along `w`
    height: np.ndarray  # [N]
    angle: np.ndarray  # [N] in [0, 180); from the top of the picture where there is no CRS


@dataclasses.dataclass(frozen=True, eq=False)
class Georeference:
    """From pixels (x right, y down, the first one's corner at 0, 0) to coordinates.

    Attributes:
      crs: None where the file names none: coordinates are those of its geotransform, or pixels.
      locate: pixels [N, 2] -> coordinates [N, 2] in `crs`, x before y.
      note: what a user should know of it, one line; empty where all is well.
    """

    crs: pyproj.CRS | None
    locate: Callable[[np.ndarray], np.ndarray]
    note: str = ""

    def lon_lat(self, coordinates: np.ndarray) -> np.ndarray:
        """Coordinates [N, 2] -> WGS 84 degrees [N, 2]; pyproj's errors where there is no way."""
        transformer = pyproj.Transformer.from_crs(self.crs, WGS84, always_xy=True)
        return np.stack(transformer.transform(*coordinates.T), axis=-1)

    @property
    def is_local(self) -> bool:
        """Whether the CRS is one that has no place on the Earth."""
        return self.crs is not None and self.crs.is_engineering

    def measure(self, corners: np.ndarray) -> Sizes:
        """Sizes of boxes given by their corners in pixels [N, 4, 2] (`boxes.to_corners`)."""
        middles = (corners + np.roll(corners, -1, axis=1)) / 2  # top, right, bottom, left
        top, right, bottom, left = np.moveaxis(middles, 1, 0)  # [N, 2] each
        ends = [self.locate(points) for points in (left, right, top, bottom)]
        if self.crs is None:
            unknown = np.full(len(corners), np.nan)
            return Sizes(unknown, unknown, _bearing((right - left) * [1, -1]))
        if self.is_local:
            left, right, top, bottom = ends
            metres = self.crs.axis_info[0].unit_conversion_factor
            width, height = (
                metres * np.hypot(*(b - a).T) for a, b in ((left, right), (top, bottom))
            )
            return Sizes(width, height, _bearing(right - left))
        left, right, top, bottom = (self.lon_lat(points) for points in ends)
        azimuth, _, width = GEOD.inv(*left.T, *right.T)
        _, _, height = GEOD.inv(*top.T, *bottom.T)
        return Sizes(width, height, np.mod(azimuth, 180))


def _bearing(direction: np.ndarray) -> np.ndarray:
    """Degrees clockwise from +y of directions [N, 2] with y up, in [0, 180)."""
    return np.mod(np.degrees(np.arctan2(direction[:, 0], direction[:, 1])), 180)


def georeference(source: rasterio.DatasetReader) -> Georeference:
    """The geotransform of an open raster, else its ground control points, else its pixels.

    Control points give the polynomial that GDAL chooses by their number, of degree 1 to 3.
    """
    points, points_crs = source.gcps
    placed = not source.transform.is_identity  # what rasterio gives where the file has none
    if points and points_crs and not placed:
        return Georeference(_crs(points_crs), _locator(GCPTransformer(points)))
    locate = _locator(AffineTransformer(source.transform))
    if source.crs and placed:
        return Georeference(_crs(source.crs), locate)
    lacking = "no CRS" if placed else "no georeference"
    given = "those of its geotransform" if placed else "pixels (x right, y down)"
    note = f"{lacking}: coordinates are {given}, sizes in metres are not known"
    if source.rpcs:
        note += "; its RPCs are not used, orthorectify it first to get coordinates"
    return Georeference(None, locate, note)


def _crs(crs: rasterio.CRS) -> pyproj.CRS:
    return pyproj.CRS(crs.to_wkt()).to_2d()


def _locator(transformer: Any) -> Callable[[np.ndarray], np.ndarray]:
    def locate(pixels: np.ndarray) -> np.ndarray:
        if not len(pixels):
            return np.zeros((0, 2))
        x, y = transformer.xy(pixels[:, 1], pixels[:, 0], offset="ul")
        return np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=-1)

    return locate
