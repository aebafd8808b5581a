"""Detections in vector files and DOTA zips, read back by other programs' readers."""

import json

import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import rasterio
import shapely

from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.detection_merging import NOTHING, Found
from rsfm_jax.evaluation.detection_submission import read_submission
from rsfm_jax.scenes.features import output_crs, write_dota, write_features
from rsfm_jax.scenes.raster import Scene
from tests import painted

CLASSES = ("plane", "ship")
BOXES = np.array([[40.0, 30, 20, 10, 0.5], [70, 60, 30, 8, -1.2], [20, 80, 9, 9, 0]])
FOUND = Found(BOXES, np.array([0.9, 0.5, 0.25], np.float32), np.array([1, 0, 1]))
ENDINGS = (".gpkg", ".geojson", ".parquet")


def scene(folder, name="scene.tif", **profile):
    path = painted.write(folder / name, np.ones((100, 100, 3), np.uint8), **profile)
    return Scene(path, name, painted.PLAIN)


def write(path, bands):
    scenes = {one.name: one.georeference for one, _ in bands}
    write_features(path, bands, CLASSES, output_crs(path, scenes))


def read(path):
    """(CRS as GDAL names it, shapely polygons, columns by name)."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        geo = json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]
        crs = geo["crs"] and ":".join(map(str, geo["crs"]["id"].values()))
        columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
        return crs, shapely.from_wkb(columns.pop("geometry")), columns
    meta, _, geometry, values = pyogrio.raw.read(path)
    return meta["crs"], shapely.from_wkb(geometry), dict(zip(meta["fields"], values, strict=True))


@pytest.mark.parametrize("ending", ENDINGS)
def test_boxes_come_back_as_polygons_in_the_right_place(tmp_path, ending):
    path = tmp_path / f"found{ending}"
    with scene(tmp_path) as one:
        write(path, [(one, FOUND.where(np.array([0, 1]))), (one, FOUND.where(np.array([2])))])
    crs, polygons, columns = read(path)
    corners = to_corners(BOXES) * [0.5, -0.5] + [500_000, 5_000_000]
    if ending == ".geojson":
        to_degrees = pyproj.Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
        corners = np.stack(to_degrees.transform(*np.moveaxis(corners, -1, 0)), -1)
    assert crs == ("EPSG:4326" if ending == ".geojson" else "EPSG:32631")
    assert all(shapely.is_valid(polygons)) and all(shapely.is_ccw(shapely.get_exterior_ring(p))
                                                   for p in polygons)  # fmt: skip
    for polygon, expected in zip(polygons, shapely.polygons(corners), strict=True):
        assert polygon.hausdorff_distance(expected) < (1e-7 if ending == ".geojson" else 1e-6)
    assert list(columns["class"]) == ["ship", "plane", "ship"]
    assert list(columns["class_id"]) == [1, 0, 1] and set(columns["image"]) == {"scene.tif"}
    np.testing.assert_allclose(columns["score"], [0.9, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(columns["width_m"], BOXES[:, 2] / 2 / 0.9996, rtol=1e-4)
    np.testing.assert_allclose(columns["height_m"], BOXES[:, 3] / 2 / 0.9996, rtol=1e-4)
    expected = np.mod(90 + np.degrees(BOXES[:, 4]), 180)
    np.testing.assert_allclose(columns["angle"], expected, atol=0.01)
    assert {file.name for file in tmp_path.iterdir()} == {"scene.tif", path.name}


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_found_is_a_file_of_nothing(tmp_path, ending):
    with scene(tmp_path) as one:
        write(tmp_path / f"none{ending}", [(one, NOTHING)])
    _, polygons, columns = read(tmp_path / f"none{ending}")
    assert len(polygons) == 0
    if ending != ".geojson":  # which names columns in its features only
        assert {"class", "score", "angle", "width_m"} <= set(columns)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("ending", ENDINGS)
def test_scenes_without_crs_come_out_in_pixels(tmp_path, ending):
    with scene(tmp_path, crs=None, transform=rasterio.Affine.identity()) as one:
        write(tmp_path / f"found{ending}", [(one, FOUND)])
    crs, polygons, columns = read(tmp_path / f"found{ending}")
    for polygon, expected in zip(polygons, shapely.polygons(to_corners(BOXES)), strict=True):
        assert polygon.hausdorff_distance(expected) < 1e-9
    assert np.isnan(np.array(columns["width_m"], float)).all()
    assert crs is None or ending == ".geojson"  # whose readers can only take it for degrees


def test_several_crss_become_one_in_geojson_only(tmp_path):
    with scene(tmp_path, "a.tif") as a, scene(tmp_path, "b.tif", crs="EPSG:32632") as b:
        write(tmp_path / "found.geojson", [(a, FOUND), (b, FOUND)])
        with pytest.raises(UserError, match=r"a.tif has CRS EPSG:32631, b.tif has EPSG:32632"):
            write(tmp_path / "found.gpkg", [(a, FOUND), (b, FOUND)])
    _, polygons, columns = read(tmp_path / "found.geojson")
    assert list(columns["image"]) == ["a.tif"] * 3 + ["b.tif"] * 3
    longitudes = [polygon.centroid.x for polygon in polygons]
    np.testing.assert_allclose(longitudes, [3] * 3 + [9] * 3, atol=1e-3)  # central meridians


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failure_on_the_way_is_told_and_leaves_the_old_file(tmp_path, ending):
    path = tmp_path / f"found{ending}"
    path.write_text("old")

    def bands(one):
        yield one, FOUND
        raise UserError("scene.tif: cannot read rows 7-9")

    with scene(tmp_path) as one, pytest.raises(UserError, match="rows 7-9"):
        write_features(path, bands(one), CLASSES, one.georeference.crs)
    assert path.read_text() == "old"
    assert {file.name for file in tmp_path.iterdir()} == {"scene.tif", path.name}


def test_dota_zip_holds_pixels_of_every_image(tmp_path):
    with scene(tmp_path, "P1.tif") as a, scene(tmp_path, "P2.tif") as b:
        write_dota(tmp_path / "out.zip", [(a, FOUND), (b, NOTHING), (b, FOUND)], CLASSES)
    read_back = read_submission(tmp_path / "out.zip", CLASSES)
    assert sorted(read_back.image) == ["P1"] * 3 + ["P2"] * 3
    first = read_back.where((read_back.image == "P1") & (read_back.labels == 0))
    np.testing.assert_allclose(first.polygons[0], to_corners(BOXES[1]), atol=0.006)
