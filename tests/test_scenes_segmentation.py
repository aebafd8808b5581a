"""Class maps of whole scenes against those of the whole image at once, and the COG they become."""

import json
import tracemalloc

import numpy as np
import pytest
import rasterio as rio
from rasterio.control import GroundControlPoint

from rsfm_jax.evaluation import sliding_windows
from rsfm_jax.evaluation.sliding_windows import Tile, Windows
from rsfm_jax.scenes import segmentation
from rsfm_jax.scenes.class_raster import write_class_raster
from rsfm_jax.scenes.raster import Reading, Scene
from rsfm_jax.scenes.segmentation import NODATA, Segmenter, class_maps, count_windows
from tests import painted

NAMES = ("road", "building", "water")
COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 0))
WEIGHTS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def predict(windows):
    """Depends on the place within the window, so that a misplaced window shows."""
    batch, size = windows.shape[:2]
    assert windows.shape == (2, size, size, 3)
    places = np.stack(np.mgrid[:size, :size], -1) / size * 255
    places = np.broadcast_to(places, (batch, size, size, 2))
    return (np.concatenate([windows, places], -1) @ WEIGHTS).astype(np.float32)


def segmenter(size, stride):
    return Segmenter(predict, NAMES, COLOURS, (124, 116, 104), 2, Windows(size, stride))


def run(path, model, reading=painted.PLAIN):
    """The class map [H, W], 255 where nothing was given; every pixel at most once from data."""
    ticks = []
    with Scene(path, path.name, reading) as scene:
        out = np.full(scene.shape, NODATA, np.uint8)
        for rows, columns, classes in class_maps(scene, model, lambda: ticks.append(1)):
            assert (out[rows, columns][classes != NODATA] == NODATA).all()
            out[rows, columns] = classes
        assert len(ticks) == count_windows(scene, model)
    return out


def whole(image, model):
    """The same by `sliding_windows` alone, the whole image in memory."""
    tiles = [Tile("", image)]
    bands = sliding_windows.segment(tiles, predict, len(NAMES), 2, model.windows)
    return next(sliding_windows.class_maps(bands))[1]


@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [(100, 200, 32, 24), (71, 133, 32, 8), (64, 97, 32, 32), (20, 25, 32, 24), (40, 300, 16, 7)],
)
@pytest.mark.parametrize("buffered", [2**27, 1, 20_000])
def test_strips_leave_no_seams(tmp_path, monkeypatch, height, width, size, stride, buffered):
    monkeypatch.setattr(segmentation, "BUFFER_BYTES", buffered)
    image = np.random.default_rng(width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    path, model = painted.write(tmp_path / "scene.tif", image), segmenter(size, stride)
    np.testing.assert_array_equal(run(path, model), whole(image, model))


def test_what_is_no_data_becomes_255_and_is_seen_as_neutral(tmp_path):
    image = np.random.default_rng(0).integers(1, 256, (120, 160, 3)).astype(np.uint8)
    image[30:90, 40:160] = 0
    path, model = painted.write(tmp_path / "scene.tif", image, nodata=0), segmenter(32, 24)
    neutral = np.where((image == 0).all(-1, keepdims=True), np.uint8(model.fill), image)
    expected = np.where((image == 0).all(-1), NODATA, whole(neutral, model))
    np.testing.assert_array_equal(run(path, model), expected)


def test_memory_does_not_grow_with_the_width(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (64, 24_000, 3)).astype(np.uint8)
    path, model = painted.write(tmp_path / "s.tif", image, tiled=True), segmenter(64, 48)
    monkeypatch.setattr(segmentation, "BUFFER_BYTES", 2**19)
    with Scene(path, "", painted.PLAIN) as scene:
        tracemalloc.start()
        for _ in class_maps(scene, model, lambda: None):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    in_one = 64 * 24_000 * 3 * 4  # bytes of summed logits
    assert peak < 6 * 2**19 < in_one / 4


def sparse(path, size, shape, where, **profile):
    """A GeoTIFF of 16-pixel blocks that stores those of random pixels at `where` only."""
    rng = np.random.default_rng(1)
    with rio.open(
        path, "w", driver="GTiff", width=shape[1], height=shape[0], count=3, dtype="uint8",
        tiled=True, blockxsize=16, blockysize=16, SPARSE_OK=True, transform=painted.NORTH_UP,
        **profile,
    ) as target:  # fmt: skip
        for x, y in where:
            pixels = rng.integers(1, 256, (3, size, size)).astype(np.uint8)
            target.write(pixels, window=rio.windows.Window(x, y, size, size))
    return path


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("stride", [24, 8])
def test_blocks_that_are_not_stored_are_skipped(tmp_path, monkeypatch, stride, interleave):
    monkeypatch.setattr(segmentation, "BUFFER_BYTES", 40_000)
    path, model = tmp_path / "s.tif", segmenter(32, stride)
    sparse(path, 32, (400, 480), [(16, 32), (304, 32), (160, 256)], interleave=interleave)
    with rio.open(path) as source:
        image = np.moveaxis(source.read(), 0, -1)
    empty = (image == 0).all(-1)
    neutral = np.where(empty[..., None], np.uint8(model.fill), image)
    result = run(path, model)
    np.testing.assert_array_equal(result, np.where(empty, NODATA, whole(neutral, model)))
    with Scene(path, "", Reading()) as scene:
        windows = len(model.windows.starts(400)) * len(model.windows.starts(480))
        assert count_windows(scene, model) < windows / 3


def write_cog(folder, source, model=None):
    model = model or segmenter(64, 48)
    out = folder / "out" / "classes.tif"
    with Scene(source, source.name, Reading()) as scene:
        write_class_raster(out, scene, model, class_maps(scene, model, lambda: None))
    assert [path.name for path in out.parent.iterdir()] == ["classes.tif"]
    return rio.open(out)


def test_class_raster_is_a_cog_with_names_and_colours(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (1100, 700, 3)).astype(np.uint8)
    image[:200, :300] = 0
    source = painted.write(tmp_path / "scene.tif", image, nodata=0)
    with write_cog(tmp_path, source) as made:
        structure = made.tags(ns="IMAGE_STRUCTURE")
        assert (structure["LAYOUT"], structure["COMPRESSION"]) == ("COG", "DEFLATE")
        assert made.block_shapes == [(512, 512)] and made.overviews(1) == [2, 4]
        assert (made.crs.to_epsg(), made.transform) == (32631, painted.NORTH_UP)
        assert made.nodata == NODATA and made.dtypes == ("uint8",)
        assert tuple(made.colormap(1)[i][:3] for i in range(3)) == COLOURS
        assert [made.tags(1)[f"class_{i}"] for i in range(3)] == list(NAMES)
        assert json.loads(made.tags()["classes"]) == list(NAMES)
        np.testing.assert_array_equal(made.read(1), run(source, segmenter(64, 48)))
        assert (made.read(1)[:190, :290] == NODATA).all()


def test_class_raster_keeps_rotated_transforms_and_control_points(tmp_path):
    image = np.full((100, 120, 3), 90, np.uint8)
    turned = painted.NORTH_UP @ rio.Affine.rotation(30)
    with write_cog(tmp_path, painted.write(tmp_path / "a.tif", image, transform=turned)) as made:
        np.testing.assert_allclose(made.transform, turned)
    points = [GroundControlPoint(r, c, 3 + c / 1e4, 45 - r / 1e4) for r in (0, 99) for c in (0, 99)]
    path = painted.write(
        tmp_path / "b.tif", image, crs="EPSG:4326", gcps=points, transform=rio.Affine.identity()
    )
    with write_cog(tmp_path, path) as made:
        (kept, crs), shape = made.gcps, made.shape
    assert crs.to_epsg() == 4326 and shape == (100, 120)
    assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]


def test_a_scene_of_nothing_becomes_a_raster_of_no_data(tmp_path):
    source = painted.write(tmp_path / "s.tif", np.zeros((90, 90, 3), np.uint8), nodata=0)
    with write_cog(tmp_path, source) as made:
        assert (made.read(1) == NODATA).all()


def test_a_failure_leaves_no_file(tmp_path):
    source = painted.write(tmp_path / "s.tif", np.ones((90, 90, 3), np.uint8))
    (tmp_path / "out").mkdir()

    def parts():
        yield slice(0, 8), slice(0, 8), np.zeros((8, 8), np.uint8)
        raise RuntimeError("the device is gone")

    with Scene(source, "s", Reading()) as scene, pytest.raises(RuntimeError, match="device"):
        write_class_raster(tmp_path / "out" / "x.tif", scene, segmenter(64, 48), parts())
    assert not list((tmp_path / "out").iterdir())
