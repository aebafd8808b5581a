from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import kstest

from rsfm_jax.data.transforms import draw_crop, random_resized_crop, resize_center_crop

REAL = Path(__file__).parents[2] / "shared/data/real/scenes"


def ramp(height: int, width: int) -> np.ndarray:
    """Red grows by 2 a column, green by 2 a row: a crop shows where it was taken."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8)


def test_crops_are_drawn_as_torchvision_documents():
    """Area uniform in scale, log aspect uniform in log ratio, position uniform."""
    rng = np.random.default_rng(0)
    side, scale, ratio = 4000, (0.2, 0.7), (3 / 4, 4 / 3)  # at most 0.75 fits in any aspect
    crops = np.array([draw_crop(side, side, rng, scale, ratio) for _ in range(4000)])
    top, left, height, width = crops.T
    uniform = {
        "area": (height * width / side**2 - 0.2) / 0.5,
        "aspect": np.log(width / height) / (2 * np.log(4 / 3)) + 0.5,
        "top": (top + rng.random(4000)) / (side - height + 1),
        "left": (left + rng.random(4000)) / (side - width + 1),
    }
    for name, values in uniform.items():
        assert kstest(values, "uniform").pvalue > 1e-3, name


def test_crops_that_cannot_fit_are_central():
    rng = np.random.default_rng(0)
    assert draw_crop(40, 1000, rng, (0.5, 1.0), (3 / 4, 4 / 3)) == (0, 473, 40, 53)
    assert draw_crop(1000, 40, rng, (0.5, 1.0), (3 / 4, 4 / 3)) == (473, 0, 53, 40)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64), st.integers(0, 2**32))
def test_any_image_gives_a_square(height, width, size, seed):
    image = np.full((height, width, 3), 77, np.uint8)
    for result in (
        random_resized_crop(image, np.random.default_rng(seed), size),
        resize_center_crop(image, size),
    ):
        assert result.shape == (size, size, 3) and result.dtype == np.uint8
        assert (result == 77).all()


@pytest.mark.parametrize("size", [16, 48, 96, 150])
def test_resampling_does_not_shift(size):
    """The ramp's value at an output pixel's centre, (i + 0.5) * scale - 0.5, both ways."""
    result = resize_center_crop(ramp(96, 120), size).astype(float)
    centres = (np.arange(size) + 0.5) * 96 / size - 0.5
    inner = slice(size // 8, -size // 8)
    assert np.abs(result[size // 2, inner, 0] - 2 * (centres + 12)[inner]).max() <= 1
    assert np.abs(result[inner, size // 2, 1] - 2 * centres[inner]).max() <= 1


def test_shrinking_does_not_alias():
    """A checkerboard of single pixels shrinks to grey; plain bicubic leaves full contrast."""
    rows, columns = np.mgrid[:256, :256]
    board = np.repeat((255 * ((rows + columns) % 2))[..., None], 3, -1).astype(np.uint8)
    assert np.ptp(resize_center_crop(board, 32)) <= 1


def test_crop_is_a_function_of_the_generator():
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    crops = [random_resized_crop(image, np.random.default_rng(seed), 32) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])


@pytest.mark.parametrize("size", [64, 96, 224])
def test_close_to_pillow_bicubic_on_real_scenes(size):
    if not REAL.is_dir():
        pytest.skip(f"no real sample data at {REAL}")
    errors = []
    for path in (
        sorted(REAL.glob("rsscn7/**/*.jp*g"))[::28] + sorted(REAL.glob("aid/*/*.jp*g"))[::210]
    ):
        image = Image.open(path).convert("RGB")
        side = min(image.size)
        image = image.crop((0, 0, side, side))
        wanted = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), float)
        errors.append(np.sqrt(np.mean((resize_center_crop(np.asarray(image), size) - wanted) ** 2)))
    assert len(errors) > 10 and np.mean(errors) < 4  # of 255; measured 1.5 to 2.3
