"""The TPU's attention kernel, interpreted on the processor, against the plain version."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfm_jax.errors import UserError
from rsfm_jax.models import short_attention
from rsfm_jax.models.attention import attention, resolve_implementation, self_attention
from rsfm_jax.models.short_attention import cut
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.vit import ParallelAttention
from rsfm_jax.sharding.rules import unbox
from tests.conftest import run_python


@pytest.fixture
def interpreted(monkeypatch):
    """Kernels run on the processor."""
    pallas_call = partial(short_attention.pl.pallas_call, interpret=True)
    monkeypatch.setattr(short_attention.pl, "pallas_call", pallas_call)


def draw(shape, dtype):
    """Scores of about 3, so that some weights are near 1: qkv, bias, weights of the result."""
    images, tokens, _, heads, head_dim = shape
    keys = jax.random.split(jax.random.key(0), 3)
    qkv = 1.7 * jax.random.normal(keys[0], shape)
    bias = jax.random.normal(keys[1], (3, heads, head_dim))
    share = jax.random.normal(keys[2], (images, tokens, heads, head_dim))
    return qkv.astype(dtype), bias.astype(dtype), share


def plain(qkv, bias):
    q, k, v = jnp.moveaxis(qkv + bias, 2, 0)
    return attention(q, k, v, "xla")


def with_gradients(function, qkv, bias, share):
    def loss(qkv, bias):
        mixed = function(qkv, bias)
        return (mixed * share).sum(), mixed

    (_, mixed), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(qkv, bias)
    return mixed, *gradients


# Whole tiles, pairs of images in one window, odd lengths, heads of several and of parts of tiles.
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((8, 50, 3, 4, 64), jnp.float32),
        ((8, 50, 3, 2, 64), jnp.bfloat16),
        ((24, 50, 3, 1, 128), jnp.bfloat16),
        ((4, 50, 3, 4, 96), jnp.float32),
        ((4, 50, 3, 8, 176), jnp.float32),
        ((8, 25, 3, 4, 32), jnp.float32),
        ((8, 197, 3, 4, 32), jnp.float32),
        ((4, 196, 3, 2, 64), jnp.bfloat16),
    ],
)
def test_values_and_gradients_are_the_plain_versions(interpreted, shape, dtype):
    qkv, bias, share = draw(shape, dtype)
    assert short_attention.fits(qkv.shape, qkv.dtype)
    ours = with_gradients(partial(self_attention, implementation="pallas"), qkv, bias, share)
    exact = with_gradients(plain, *(x.astype(jnp.float32) for x in (qkv, bias, share)))
    rounded = with_gradients(plain, qkv, bias, share)
    for mine, other, truth in zip(ours, rounded, exact, strict=True):
        assert mine.dtype == dtype
        if dtype == jnp.float32:
            np.testing.assert_allclose(mine, truth, atol=3e-6 * float(jnp.abs(truth).max()))
        else:  # no further from the truth than the plain version in the same type
            mine, other = (jnp.square(x.astype(jnp.float32) - truth).mean() for x in (mine, other))
            assert mine < 1.2 * other


def test_a_layer_is_the_same_with_it(interpreted):
    size = ViTSize(width=64, depth=1, num_heads=2, mlp_dim=64, num_branches=2)
    stream, x = jax.random.normal(jax.random.key(0), (2, 8, 25, 64))
    layers = [
        ParallelAttention(size, 0.0, jnp.float32, attention=name) for name in ("pallas", "xla")
    ]
    params = unbox(layers[0].init(jax.random.key(1), stream, x, True))

    def gradients(layer):
        def loss(params, x):
            return jnp.square(layer.apply(params, stream, x, True)).sum()

        return jax.jit(jax.grad(loss, (0, 1)))

    assert "short_attention_backward" in str(jax.make_jaxpr(gradients(layers[0]))(params, x))
    ours, plain = (gradients(layer)(params, x) for layer in layers)
    jax.tree.map(
        lambda mine, other: np.testing.assert_allclose(mine, other, atol=1e-4, rtol=1e-4),
        ours,
        plain,
    )


def test_an_image_with_infinite_scores_does_not_touch_its_neighbours(interpreted):
    qkv, bias, _ = draw((8, 50, 3, 4, 64), jnp.float32)
    loud = qkv.at[3].multiply(1e4)
    ours = self_attention(loud, bias, "pallas")
    np.testing.assert_allclose(ours, plain(loud, bias), atol=2e-4, rtol=2e-4)
    quiet = jnp.array([i for i in range(8) if i != 3])
    np.testing.assert_array_equal(ours[quiet], self_attention(qkv, bias, "pallas")[quiet])


@settings(max_examples=200, deadline=None)
@given(
    images=st.integers(1, 64),
    tokens=st.integers(1, 300),
    heads=st.integers(1, 16),
    head_dim=st.sampled_from([32, 64, 80, 96, 128, 176]),
    itemsize=st.sampled_from([2, 4]),
)
def test_blocks_are_whole_tiles_and_windows_hold_their_images(
    images, tokens, heads, head_dim, itemsize
):
    blocks = cut((images, tokens, 3, heads, head_dim), itemsize)
    if blocks is None:
        return
    assert images % blocks.images == 0 and heads * head_dim % blocks.lanes == 0
    assert blocks.rows % blocks.tile == blocks.window % blocks.tile == blocks.lanes % 128 == 0
    assert blocks.lanes % head_dim == 0 and blocks.window <= blocks.rows
    for first in range(0, blocks.images, blocks.group):
        row = first * tokens
        start = min(row // blocks.tile * blocks.tile, blocks.rows - blocks.window)
        end = min(row + blocks.group * tokens, blocks.rows)
        assert start <= row and end <= start + blocks.window


@pytest.mark.parametrize(
    "shape",
    [
        (8, 4096, 3, 4, 64),  # long
        (3, 50, 3, 4, 64),  # rows that are no whole tiles
        (8, 50, 3, 3, 64),  # heads that are no whole tiles
    ],
)
def test_what_does_not_fit_is_left_to_xla(shape):
    qkv, bias, _ = draw(shape, jnp.bfloat16)
    assert not short_attention.fits(qkv.shape, qkv.dtype)
    traced = jax.make_jaxpr(partial(self_attention, implementation="pallas"))(qkv, bias)
    assert "pallas_call" not in str(traced)


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
def test_kernels_are_lowered_for_tpus(head_dim):
    shape = jax.ShapeDtypeStruct((16, 50, 3, 8, head_dim), jnp.bfloat16)
    bias = jnp.zeros((3, 8, head_dim), jnp.bfloat16)
    gradient = jax.grad(lambda qkv: short_attention.short_attention(qkv, bias).astype(float).sum())
    text = jax.jit(gradient).trace(shape).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@tpu_custom_call") == 1  # of the forward pass only its inputs are kept
    assert "short_attention_backward" in text


def test_every_device_takes_its_own_images_and_heads():
    run = run_python("-m", "tests.sharded_attention", devices=8)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("name", "platform", "chosen"),
    [
        ("auto", "cpu", "xla"),
        ("auto", "gpu", "cudnn"),
        ("auto", "tpu", "pallas"),
        ("xla", "tpu", "xla"),
    ],
)
def test_choice(name, platform, chosen):
    assert resolve_implementation(name, platform) == chosen


@pytest.mark.parametrize(
    ("name", "platform", "says"),
    [
        ("flash", "tpu", "auto, cudnn, pallas, xla"),
        ("pallas", "cpu", "tpu"),
        ("cudnn", "cpu", "gpu"),
    ],
)
def test_refused_choice(name, platform, says):
    with pytest.raises(UserError, match=says):
        resolve_implementation(name, platform)
