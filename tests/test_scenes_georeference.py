"""Coordinates and sizes on the ground, against values computed by hand or by other formulas."""

import math
from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine
from rasterio.control import GroundControlPoint

from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.scenes.raster import Reading, Scene
from tests import painted

REAL = Path(__file__).parents[2] / "shared/data/real/geotiff"
AXIS, FLATTENING = 6_378_137.0, 1 / 298.257223563  # WGS 84


def open_georeference(tmp_path, **profile):
    path = painted.write(tmp_path / "s.tif", np.zeros((100, 100, 3), np.uint8), **profile)
    with Scene(path, path.name, Reading()) as scene:
        return scene.georeference


def measure(georeference, box):
    return [float(value[0]) for value in georeference.measure(to_corners(np.array([box])))]


def arc(latitude):
    """Metres a radian of longitude and of latitude on the WGS 84 ellipsoid (textbook formulas)."""
    square = FLATTENING * (2 - FLATTENING)
    bend = 1 - square * math.sin(latitude) ** 2
    return AXIS * math.cos(latitude) / bend**0.5, AXIS * (1 - square) / bend**1.5


def test_utm_metres_are_ground_metres_within_its_scale(tmp_path):
    """At the central meridian the scale of UTM is 0.9996; grid north is north."""
    georeference = open_georeference(tmp_path)
    width, height, angle = measure(georeference, [50, 50, 40, 20, 0])
    assert (width, height) == pytest.approx((20 / 0.9996, 10 / 0.9996), rel=1e-5)
    assert angle == pytest.approx(90, abs=1e-3)
    assert measure(georeference, [50, 50, 40, 20, -math.pi / 4])[2] == pytest.approx(45, abs=1e-3)
    assert measure(georeference, [50, 50, 40, 20, math.pi / 4])[2] == pytest.approx(135, abs=1e-3)


@pytest.mark.parametrize("latitude", [0, 45, 60, -75])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_degrees_and_mercator_metres_become_ground_metres(tmp_path, crs, latitude):
    """A box 40 x 20 pixels whose sides run east and north."""
    phi = math.radians(latitude)
    if crs == "EPSG:4326":
        across = down = 1e-5
        x, y = 10, latitude
        radians = math.radians(1e-5), math.radians(1e-5)
    else:
        across = down = 2.0  # map metres; a spherical Mercator map of the ellipsoid's latitudes
        x, y = 1_000_000, AXIS * math.asinh(math.tan(phi))
        radians = 2 / AXIS, 2 / AXIS * math.cos(phi)
    transform = Affine(across, 0, x - 50 * across, 0, -down, y + 50 * down)
    georeference = open_georeference(tmp_path, crs=crs, transform=transform)
    width, height, angle = measure(georeference, [50, 50, 40, 20, 0])
    metres = [40 * radians[0] * arc(phi)[0], 20 * radians[1] * arc(phi)[1]]
    assert (width, height) == pytest.approx(metres, rel=1e-4)
    assert angle == pytest.approx(90, abs=0.01)


def test_a_turned_scene_turns_the_angle(tmp_path):
    """The raster's rows run 30 degrees counter-clockwise of east, so 60 degrees from north."""
    turned = Affine.translation(500_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
    georeference = open_georeference(tmp_path, transform=turned)
    assert measure(georeference, [50, 50, 40, 20, 0])[2] == pytest.approx(60, abs=1e-3)
    point = georeference.locate(np.array([[10.0, 0.0]]))[0]
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    np.testing.assert_allclose(point, [500_000 + 5 * cos, 5_000_000 + 5 * sin])


def test_oblong_pixels_are_measured_as_they_are(tmp_path):
    oblong = Affine(0.5, 0, 500_000, 0, -2, 5_000_000)
    width, height, _ = measure(open_georeference(tmp_path, transform=oblong), [50, 50, 40, 20, 0])
    assert (width, height) == pytest.approx((20, 40), rel=1e-3)


def test_control_points_place_pixels(tmp_path):
    points = [
        GroundControlPoint(row, column, 500_000 + 0.5 * column, 5_000_000 - 0.5 * row)
        for row in (0, 100)
        for column in (0, 100)
    ]
    georeference = open_georeference(tmp_path, gcps=points, transform=Affine.identity())
    assert georeference.crs.to_epsg() == 32631 and not georeference.note
    place = georeference.locate(np.array([[30.0, 70.0]]))[0]
    np.testing.assert_allclose(place, [500_015, 4_999_965], atol=1e-6)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_crs_coordinates_are_pixels_and_it_is_said(tmp_path):
    georeference = open_georeference(tmp_path, crs=None, transform=Affine.identity())
    np.testing.assert_array_equal(georeference.locate(np.array([[3.0, 7.0]])), [[3, 7]])
    width, height, angle = measure(georeference, [50, 50, 40, 20, math.pi / 4])
    assert math.isnan(width) and math.isnan(height) and angle == pytest.approx(135)
    assert "coordinates are pixels" in georeference.note
    unplaced = open_georeference(tmp_path, transform=Affine.identity())  # a CRS, but no place
    assert unplaced.crs is None and "coordinates are pixels" in unplaced.note
    placed = open_georeference(tmp_path, crs=None)
    assert "of its geotransform" in placed.note
    np.testing.assert_array_equal(placed.locate(np.array([[2.0, 2.0]])), [[500_001, 4_999_999]])


def test_a_local_crs_is_measured_in_its_own_unit(tmp_path):
    feet = 'LOCAL_CS["site grid",UNIT["foot",0.3048],AXIS["x",EAST],AXIS["y",NORTH]]'
    georeference = open_georeference(tmp_path, crs=feet)
    width, height, angle = measure(georeference, [50, 50, 40, 20, 0])
    assert (width, height) == pytest.approx((20 * 0.3048, 10 * 0.3048))
    assert angle == pytest.approx(90)


@pytest.mark.parametrize(
    ("name", "pixel", "lon_lat"),
    [
        ("test_tiled.tif", 0.25, (5.1, 51.9)),  # the Netherlands
        ("5b90f92da0d7280005fab355_4310.tif", 0.1 * 0.968, (121, 14.6)),  # Manila: cos(14.6 deg)
        ("OSBS_029.tif", 0.1, (-82, 29.7)),  # Ordway-Swisher, Florida
        ("sample_geotiff.tif", 0.5, (-84.5, 33.6)),  # Atlanta
    ],
)
def test_real_scenes_lie_where_their_sources_say(name, pixel, lon_lat):
    if not (REAL / name).exists():
        pytest.skip(f"{REAL} is not here")
    with Scene(REAL / name, name, Reading(stretch=(0, 255))) as scene:
        georeference = scene.georeference
    sizes = measure(georeference, [100, 100, 100, 50, 0])
    assert sizes[:2] == pytest.approx([100 * pixel, 50 * pixel], rel=0.01)
    place = georeference.lon_lat(georeference.locate(np.array([[0.0, 0.0]])))[0]
    np.testing.assert_allclose(place, lon_lat, atol=0.3)
