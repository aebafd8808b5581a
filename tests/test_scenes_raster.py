"""Reading rasters: types, bands, stretches, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import rasterio as rio
from rasterio.enums import ColorInterp

from rsfm_jax.errors import UserError
from rsfm_jax.scenes.raster import Reading, Scene
from tests import painted

REAL = Path(__file__).parents[2] / "shared/data/real/geotiff"
RAMP = np.arange(64 * 64 * 4).reshape(64, 64, 4)


def read(path, reading=painted.PLAIN):
    with Scene(path, path.name, reading) as scene:
        return scene.read(*(slice(0, length) for length in scene.shape))


def refusal(path, reading=painted.PLAIN):
    with pytest.raises(UserError) as error:
        read(path, reading)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_8_bit_values_stay(tmp_path):
    image = (RAMP[..., :3] % 256).astype(np.uint8)
    pixels, valid = read(painted.write(tmp_path / "s.tif", image))
    np.testing.assert_array_equal(pixels, image)
    assert valid.all() and valid.shape == (64, 64)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_a_stretch_maps_its_ends_to_black_and_white(tmp_path, dtype):
    image = (RAMP[..., :3] - 100).clip(0).astype(dtype)
    path = painted.write(tmp_path / "s.tif", image)
    pixels, _ = read(path, Reading(stretch=(1000, 9000)))
    expected = (255 * (image.astype(float) - 1000) / 8000).clip(0, 255)
    assert pixels.dtype == np.uint8 and np.abs(pixels - expected).max() <= 0.5 + 1e-6
    assert dtype in refusal(path) and "--stretch=LOW,HIGH" in refusal(path)


def test_percentiles_are_those_of_the_data_in_each_band(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.normal([1000, 2000, 3000], [50, 100, 10], (300, 300, 3)).astype(np.float32)
    image[:150] = np.nan
    path = painted.write(tmp_path / "s.tif", image)
    pixels, valid = read(path, Reading(stretch="percentiles"))
    np.testing.assert_array_equal(valid, np.arange(300)[:, None].repeat(300, 1) >= 150)
    for band in range(3):
        shares = [(pixels[150:, :, band] == end).mean() for end in (0, 255)]
        assert shares == pytest.approx([0.02, 0.02], abs=0.003)


def test_bands_are_chosen_by_number_by_colour_or_by_count(tmp_path):
    image = (RAMP % 251).astype(np.uint8)
    unnamed = painted.write(tmp_path / "4.tif", image, photometric="MINISBLACK", alpha="NO")
    assert "--bands=R,G,B" in refusal(unnamed)
    np.testing.assert_array_equal(read(unnamed, Reading(bands=(3, 2, 1)))[0], image[..., 2::-1])
    np.testing.assert_array_equal(read(unnamed, Reading(bands=(4,)))[0], image[..., [3, 3, 3]])
    assert "bands 1 to 4" in refusal(unnamed, Reading(bands=(5, 1, 2)))
    with rio.open(unnamed, "r+") as target:
        target.colorinterp = [
            ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red
        ]  # fmt: skip
    np.testing.assert_array_equal(read(unnamed)[0], image[..., [3, 2, 1]])
    grey = painted.write(tmp_path / "1.tif", image[..., :1])
    np.testing.assert_array_equal(read(grey)[0], image[..., [0, 0, 0]])


def test_alpha_is_no_data_and_no_colour(tmp_path):
    image = (RAMP % 256).astype(np.uint8)
    image[..., 3] = 255 * (RAMP[..., 0] % 8 > 0)
    pixels, valid = read(painted.write(tmp_path / "s.tif", image, photometric="RGB", alpha="YES"))
    np.testing.assert_array_equal(pixels, image[..., :3])
    np.testing.assert_array_equal(valid, image[..., 3] > 0)


def test_a_pixel_is_data_where_any_band_is(tmp_path):
    image = np.full((8, 8, 3), 9, np.uint8)
    image[0, 0], image[0, 1, 0] = 0, 0
    _, valid = read(painted.write(tmp_path / "s.tif", image, nodata=0))
    assert not valid[0, 0] and valid.sum() == 63


def test_palettes_become_colours(tmp_path):
    index = (RAMP[..., :1] % 3).astype(np.uint8)
    path = painted.write(tmp_path / "s.tif", index, photometric="PALETTE")
    colours = np.array([(255, 0, 0), (0, 255, 0), (1, 2, 3)], np.uint8)
    with rio.open(path, "r+") as target:
        target.write_colormap(1, {i: tuple(map(int, c)) for i, c in enumerate(colours)})
    np.testing.assert_array_equal(read(path)[0], colours[index[..., 0]])


def test_what_cannot_be_read_is_named(tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0 no tiff")
    assert str(broken) in refusal(broken)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (256, 256, 3)).astype(np.uint8)
    path = painted.write(tmp_path / "cut.tif", image, tiled=True, blockxsize=64, blockysize=64)
    path.write_bytes(path.read_bytes()[:100_000])
    assert "cannot read rows" in refusal(path)
    complex_values = painted.write(tmp_path / "c.tif", np.ones((8, 8, 1), np.complex64))
    assert "complex" in refusal(complex_values)
    nothing = painted.write(tmp_path / "n.tif", np.zeros((8, 8, 3), np.uint16), nodata=0)
    assert "no data" in refusal(nothing, Reading(stretch="percentiles"))


@pytest.mark.parametrize(
    ("name", "reading", "share"),
    [
        ("test_tiled.tif", Reading(), 1),
        ("OSBS_029.tif", Reading(), None),
        ("5b90f92da0d7280005fab355_4310.tif", Reading(nodata=0), None),
        ("sample_geotiff.tif", Reading(stretch="percentiles"), 1),
        ("ms1.tif", Reading(bands=(3, 2, 1), stretch="percentiles"), 1),
        ("pan1.tif", Reading(stretch=(0, 1000)), 1),
        ("NAIP-VA-b1.tiff", Reading(), 1),
    ],
)
def test_real_scenes_read(name, reading, share):
    if not (REAL / name).exists():
        pytest.skip(f"{REAL} is not here")
    pixels, valid = read(REAL / name, reading)
    assert pixels.shape == (*valid.shape, 3) and pixels.dtype == np.uint8
    assert valid.mean() == share if share else 0.5 < valid.mean() < 1
    assert pixels[valid].std() > 15
