"""Sliding windows against a full-size average written down from mmsegmentation's rule."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.sliding_windows import Tile, Windows, blend, class_maps, segment

CLASSES = 4
WEIGHTS = np.random.default_rng(0).normal(size=(5, CLASSES)).astype(np.float32)


def predict(windows):
    """Depends on the place within the window, so that a misplaced window shows."""
    batch, size, _, _ = windows.shape
    y, x = (places / size * 255 for places in np.mgrid[:size, :size])
    places = np.broadcast_to(np.stack([y, x], -1), (batch, size, size, 2))
    return (np.concatenate([windows, places], -1) @ WEIGHTS).astype(np.float32) / 255


def reference(image, size, stride):
    """mmsegmentation's slide_inference: whole buffers, one window after the other."""
    height, width = image.shape[:2]
    sums, counts = np.zeros((height, width, CLASSES)), np.zeros((height, width, 1))
    for row in range(max(height - size + stride - 1, 0) // stride + 1):
        for column in range(max(width - size + stride - 1, 0) // stride + 1):
            y2, x2 = min(row * stride + size, height), min(column * stride + size, width)
            y1, x1 = max(y2 - size, 0), max(x2 - size, 0)
            window = image[y1:y2, x1:x2]
            padded = np.pad(
                window, [(0, size - (y2 - y1)), (0, size - (x2 - x1)), (0, 0)], "reflect"
            )
            sums[y1:y2, x1:x2] += predict(padded[None])[0, : y2 - y1, : x2 - x1]
            counts[y1:y2, x1:x2] += 1
    return sums / counts


def windows_of(image, windows):
    """Logits of one tile's windows, row by row."""
    size = windows.size
    for top in windows.starts(image.shape[0]):
        for left in windows.starts(image.shape[1]):
            window = image[top : top + size, left : left + size]
            missing = [(0, size - length) for length in window.shape[:2]]
            yield predict(np.pad(window, [*missing, (0, 0)], "reflect")[None])[0]


def random_image(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


SIDES = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(1, 24), st.integers(1, 24), st.integers(0, 99))
def test_bands_equal_the_full_size_average(height, width, one, other, seed):
    windows = Windows(max(one, other), min(one, other))
    image = random_image(seed, height, width)
    bands = list(blend(windows_of(image, windows), height, width, CLASSES, windows))
    assert all(len(band) <= windows.size for band in bands)
    # Each of a pixel's n logits that is added in float32 rounds by half an ulp of the sum: the
    # mean is within n half ulps of the largest logit, one more for the division.
    overlaps = (-(-windows.size // windows.stride) + 1) ** 2  # the last windows are shifted
    largest = max(np.abs(logits).max() for logits in windows_of(image, windows))
    bound = (overlaps + 1) * np.finfo(np.float32).eps / 2 * largest
    expected = reference(image, *windows)
    np.testing.assert_allclose(np.concatenate(bands), expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    "length, windows, count, last",
    [
        (6000, Windows(512, 384), 16, [5376, 5488]),
        (1024, Windows(512, 384), 3, [384, 512]),
        (6000, Windows(1024, 768), 8, [4608, 4976]),
        (512, Windows(512, 384), 1, [0]),
        (100, Windows(512, 384), 1, [0]),
    ],
)
def test_published_window_counts(length, windows, count, last):
    starts = windows.starts(length)
    assert len(starts) == count
    assert starts[-2:] == last


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5), st.integers(1, 7))
def test_tiles_share_batches_of_one_shape(sides, batch_size):
    windows = Windows(16, 12)
    tiles = [Tile(str(i), random_image(i, *side)) for i, side in enumerate(sides)]
    shapes = []

    def recording(batch):
        shapes.append(batch.shape)
        return predict(batch)

    maps = list(class_maps(segment(tiles, recording, CLASSES, batch_size, windows)))
    assert [tile for tile, _ in maps] == tiles
    for tile, classes in maps:
        assert classes.dtype == np.uint8 and classes.shape == tile.image.shape[:2]
        mean = reference(tile.image, *windows)
        *_, second, best = np.moveaxis(np.sort(mean, -1), -1, 0)
        clear = best - second > 1e-5
        np.testing.assert_array_equal(classes[clear], mean.argmax(-1)[clear])
    count = sum(len(windows.starts(h)) * len(windows.starts(w)) for h, w in sides)
    assert shapes == [(batch_size, 16, 16, 3)] * -(-count // batch_size)


@pytest.mark.parametrize("height", [300, 3000])
def test_memory_is_two_bands_whatever_the_height(height):
    windows, width = Windows(64, 48), 128
    size, batch_size = windows.size, 2
    image = np.broadcast_to(np.uint8(7), (height, width, 3))
    fixed = np.zeros((batch_size, size, size, CLASSES), np.float32)
    rows = 0
    tracemalloc.start()
    try:
        for band in segment([Tile("tall", image)], lambda _: fixed, CLASSES, batch_size, windows):
            rows += len(band.classes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == height
    buffer = size * width * CLASSES * 4
    chosen = size * width * 8  # argmax, before it becomes uint8
    batches = 3 * batch_size * size * size * 3
    assert peak < 2 * buffer + chosen + batches + 100_000 < 600_000
    assert height == 300 or height * width * CLASSES * 4 > 10 * peak


def test_tiles_are_read_two_batches_ahead_at_most():
    read = []

    def tiles():
        for number in range(9):
            read.append(number)
            yield Tile(str(number), random_image(number, 16, 16))

    for band in segment(tiles(), predict, CLASSES, 2, Windows(16, 12)):
        assert len(read) <= int(band.tile.name) + 4
    assert len(read) == 9


def test_a_jitted_model_compiles_once_and_may_give_bfloat16():
    image = random_image(0, 50, 20)

    @jax.jit
    def model(windows):
        return jax.nn.one_hot(windows[..., 0] % 3, 3, dtype=jnp.bfloat16)

    ((_, classes),) = class_maps(segment([Tile("a", image)], model, 3, 4, Windows(8, 3)))
    np.testing.assert_array_equal(classes, image[..., 0] % 3)
    assert model._cache_size() == 1


def test_mistakes_are_named():
    tile = Tile("a.png", random_image(0, 20, 20))
    with pytest.raises(UserError, match="5 classes"):
        list(segment([tile], predict, 5, 2, Windows(16, 12)))
    for stride in (0, 17):
        with pytest.raises(UserError, match=f"stride {stride} must be 1 to the window size, 16"):
            list(segment([tile], predict, CLASSES, 2, Windows(16, stride)))
