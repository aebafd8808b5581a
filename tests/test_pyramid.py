"""Scale blocks and resampling against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.models.pyramid import ScaleBlocks, SimpleFeaturePyramid, scale_blocks
from rsfm_jax.models.resampling import adaptive_average_pool, resize_bilinear
from tests.weights import random_weights

torch = pytest.importorskip("torch", reason="the truth is computed by torch")
functional = torch.nn.functional


def tensor(x):
    return torch.tensor(np.asarray(x))


def to_torch(x):  # [B, H, W, C] -> [B, C, H, W]
    return tensor(x).permute(0, 3, 1, 2)


def to_numpy(x):
    return x.permute(0, 2, 3, 1).numpy()


def conv(params, x):
    return functional.conv2d(x, tensor(params["kernel"]).permute(3, 2, 0, 1), padding="same")


def transposed(params, x):
    kernel = tensor(params["kernel"]).permute(0, 3, 1, 2)
    return functional.conv_transpose2d(x, kernel, tensor(params["bias"]), stride=2)


def norm(params, x):
    scale, bias = tensor(params["scale"]), tensor(params["bias"])
    x = functional.layer_norm(x.permute(0, 2, 3, 1), scale.shape, scale, bias, eps=1e-6)
    return x.permute(0, 3, 1, 2)


def four_times(params, x):
    x = functional.gelu(norm(params["norm"], transposed(params["up1"], x)))
    return transposed(params["up2"], x)


def test_simple_feature_pyramid():
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 16))
    model = SimpleFeaturePyramid(channels=12)
    params = random_weights(model, x)
    maps = model.apply({"params": params}, x)
    levels = [
        four_times(params["up_p2"], to_torch(x)),
        transposed(params["up_p3"], to_torch(x)),
        to_torch(x),
        functional.max_pool2d(to_torch(x), 2),
    ]
    for i, level in enumerate(levels, start=2):
        level = norm(params[f"p{i}_reduce_norm"], conv(params[f"p{i}_reduce"], level))
        level = norm(params[f"p{i}_smooth_norm"], conv(params[f"p{i}_smooth"], level))
        np.testing.assert_allclose(maps[i - 2], to_numpy(level), atol=1e-5)
    expected = to_numpy(functional.max_pool2d(level, 1, stride=2))
    np.testing.assert_allclose(maps[4], expected, atol=1e-5)
    sizes = [(24, 16), (12, 8), (6, 4), (3, 2), (2, 1)]
    assert [x.shape for x in maps] == [(2, *size, 12) for size in sizes]


def test_scale_blocks():
    assert scale_blocks(12) == (3, 5, 7, 11)
    assert scale_blocks(24) == (7, 11, 15, 23)
    assert scale_blocks(2) == (0, 0, 1, 1)
    x = jax.random.normal(jax.random.key(0), (4, 2, 3, 3, 8))
    params = random_weights(ScaleBlocks(), list(x))
    maps = ScaleBlocks().apply({"params": params}, list(x))
    expected = four_times(params["up4"], to_torch(x[0])), transposed(params["up2"], to_torch(x[1]))
    np.testing.assert_allclose(maps[0], to_numpy(expected[0]), atol=1e-5)
    np.testing.assert_allclose(maps[1], to_numpy(expected[1]), atol=1e-5)
    np.testing.assert_array_equal(maps[2], x[2])
    # An odd last row and column are kept.
    expected = functional.max_pool2d(to_torch(x[3]), 2, ceil_mode=True)
    np.testing.assert_array_equal(maps[3], to_numpy(expected))


@pytest.mark.parametrize("size", [(16, 16), (7, 5), (1, 4), (6, 6)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_adaptive_average_pool(size, bins):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    expected = to_numpy(functional.adaptive_avg_pool2d(to_torch(x), bins))
    np.testing.assert_allclose(adaptive_average_pool(x, bins), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(12, 28), (5, 7), (3, 3), (1, 1), (13, 4)])
def test_resize_bilinear(size):
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype(np.float32)
    expected = functional.interpolate(to_torch(x), size=size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(resize_bilinear(jnp.asarray(x), size), to_numpy(expected), atol=1e-5)
