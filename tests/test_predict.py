"""launch/predict.py: what goes in, what comes out, what is refused."""

import zipfile

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image

from launch import predict
from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.evaluation.detection_submission import read_submission
from rsfm_jax.scenes import network
from tests import painted
from tests.conftest import run_python

BOXES = np.array([[60.0, 50, 40, 20, 0.4], [150, 120, 30, 10, -1.0], [30, 130, 12, 12, 0.1]])


@pytest.fixture
def detects(monkeypatch):
    """The checkpoint "seen" finds bright rectangles."""

    def load(checkpoint, tiling):
        return painted.detector(tiling.tile or 96, tiling.overlap or 48)

    monkeypatch.setattr(network, "load", load)


@pytest.fixture
def segments(monkeypatch):
    """The checkpoint "seen" tells bright from dark."""
    monkeypatch.setattr(network, "load", lambda checkpoint, tiling: painted.segmenter(64, 16))


@pytest.fixture
def tif(tmp_path):
    return painted.write(tmp_path / "in" / "scene.tif", painted.paint(180, 200, BOXES))


@pytest.fixture(autouse=True)
def input_folder(tmp_path):
    (tmp_path / "in").mkdir()


def command(source, output, *more):
    return predict.main(
        ["--checkpoint=seen", f"--input={source}", f"--output={output}", "--score=0", *more]
    )


@pytest.mark.usefixtures("detects")
def test_a_scene_becomes_map_features(tmp_path, tif):
    output = tmp_path / "new" / "found.gpkg"
    assert command(tif, output) == 0
    meta, _, geometry, _ = pyogrio.raw.read(output)
    expected = shapely.polygons(to_corners(BOXES) * [0.5, -0.5] + [500_000, 5_000_000])
    found = shapely.from_wkb(geometry)
    assert meta["crs"] == "EPSG:32631" and len(found) == len(expected)
    for polygon in expected:
        overlap = shapely.area(shapely.intersection(polygon, found)).max()
        assert overlap > 0.8 * polygon.area
    assert [path.name for path in output.parent.iterdir()] == ["found.gpkg"]


@pytest.mark.usefixtures("detects")
def test_a_folder_becomes_one_file_or_a_submission(tmp_path):
    for name in ("P1.png", "deeper/P2.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(painted.paint(180, 200, BOXES)).save(path, quality=98)
    assert command(tmp_path / "in", tmp_path / "all.geojson") == 0
    meta, _, geometry, values = pyogrio.raw.read(tmp_path / "all.geojson")
    assert sorted(values[0]) == ["P1.png"] * 3 + ["deeper/P2.jpg"] * 3
    assert shapely.total_bounds(shapely.from_wkb(geometry)).max() < 200  # pixels
    assert command(tmp_path / "in", tmp_path / "all.zip") == 0
    found = read_submission(tmp_path / "all.zip", ("small", "large"))
    assert sorted(found.image) == ["P1"] * 3 + ["P2"] * 3


@pytest.mark.usefixtures("segments")
def test_a_scene_becomes_a_class_raster(tmp_path, tif):
    assert predict.main(["--checkpoint=x", f"--input={tif}", f"--output={tmp_path / 'c.tif'}"]) == 0
    with rasterio.open(tmp_path / "c.tif") as made, rasterio.open(tif) as source:
        np.testing.assert_array_equal(made.read(1), source.read(1) > 150)
        assert made.transform == source.transform


@pytest.mark.usefixtures("segments")
def test_a_folder_becomes_class_rasters_in_a_zip(tmp_path):
    for name, side in (("a", 100), ("b", 60)):
        painted.write(tmp_path / "in" / f"{name}.tif", painted.paint(side, 90, BOXES[:1]))
    output = tmp_path / "c.zip"
    arguments = ["--checkpoint=x", f"--input={tmp_path / 'in'}", f"--output={output}"]
    assert predict.main(arguments) == 0
    with zipfile.ZipFile(output) as archive:
        archive.extractall(tmp_path)
        assert archive.namelist() == ["a.tif", "b.tif"]
    with rasterio.open(tmp_path / "b.tif") as made:
        assert made.shape == (60, 90) and made.read(1).max() == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in", "c.zip", "a.tif", "b.tif"}


BAD = {
    "no such input": (["--input=nowhere.tif"], "nowhere.tif"),
    "not a raster": (["--input={text}"], "text.tif: not a raster"),
    "an ending that is none": (["--output={out}/x.shp"], ".gpkg .geojson .parquet .zip"),
    "class map of a detector": (["--output={out}/x.tif"], ".gpkg"),
    "output on a file": (["--output={text}/x.gpkg"], "cannot write there"),
    "bands": (["--bands=1,9,2"], "has bands 1 to 3"),
    "bands of words": (["--bands=red"], "'red': give band numbers"),
    "stretch the wrong way": (["--stretch=9,3"], "LOW < HIGH"),
    "16 bit without stretch": (["--input={deep}"], "--stretch=LOW,HIGH"),
    "a score that is none": (["--score=nan"], "must be from 0 to 1"),
    "an argument that is none": (["--tiles=3"], "--tiles=3"),
    "several CRSs": (["--input={mixed}"], "write .geojson"),
    "an empty folder": (["--input={out}"], "no images"),
    "names of two words in a zip": (["--input={words}", "--output={out}/x.zip"], "one word"),
    "output over input": (["--output={tif}"], "is the input"),
    "equal names in a zip": (["--input={twins}", "--output={out}/x.zip"], "2 images are named a"),
}


@pytest.mark.usefixtures("detects")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_2(tmp_path, tif, capsys, name):
    image = painted.paint(64, 64, [])
    folders = {
        key: tmp_path / "in" / key for key in ("mixed", "words", "twins/one", "twins/two", "out")
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    painted.write(folders["words"] / "a b.tif", image)
    text, deep = tmp_path / "in" / "text.tif", tmp_path / "in" / "deep.tif"
    text.write_text("no raster")
    painted.write(deep, image.astype(np.uint16))
    for zone in (31, 32):
        painted.write(folders["mixed"] / f"{zone}.tif", image, crs=f"EPSG:326{zone}")
    for folder in ("twins/one", "twins/two"):
        painted.write(folders[folder] / "a.tif", image)
    places = folders | {"text": text, "deep": deep, "tif": tif, "twins": tmp_path / "in" / "twins"}
    arguments, message = BAD[name]
    arguments = [argument.format(**places) for argument in arguments]
    assert command(tif, tmp_path / "in" / "out" / "found.gpkg", *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert message in lines[-1]
    assert not list(folders["out"].iterdir())


def test_a_sparse_scene_of_100_000_by_100_000_pixels_needs_little_memory(tmp_path):
    """A process of its own, whose peak it prints; two islands are stored and found."""
    run = run_python("-m", "tests.huge_scene", tmp_path, "detect")
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 2**30  # 2 GiB is promised, a network included
    _, _, geometry, _ = pyogrio.raw.read(tmp_path / "out.gpkg")
    assert len(geometry) == 2
