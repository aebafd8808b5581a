"""The dense backbone: equal to the plain ViT, to transformers' VitDet, and small in memory."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from jax._src.cudnn import fused_attention_stablehlo as fused
from jax.extend.core import jaxprs_in_params

from rsfm_jax.errors import UserError
from rsfm_jax.flops import training_flops
from rsfm_jax.models.attention import attention
from rsfm_jax.models.flops import vitdet_flops
from rsfm_jax.models.layers import LayerNorm
from rsfm_jax.models.relative_positions import fold_relative_positions
from rsfm_jax.models.sizes import ViTSize, vit_size
from rsfm_jax.models.vit import Blocks, ViT, ViTConfig, patchify, sincos_positions
from rsfm_jax.models.vitdet import SpatialAttention, ViTDet, ViTDetConfig, global_blocks
from rsfm_jax.models.windows import join_windows, split_windows
from tests.weights import random_weights

SIZE = ViTSize(width=24, depth=2, num_heads=3, mlp_dim=40, num_branches=2)
ENCODER = ViTConfig(SIZE, patch_size=4)


def flat_names(params):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(params)
    }


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (32, (7, 15, 23, 31)), (2, (0, 0, 1, 1))],
)
def test_global_blocks_end_the_quarters(depth, expected):
    assert global_blocks(depth) == expected


def test_windows_are_put_back_and_padded_with_zeros():
    x = jnp.arange(1.0, 2 * 5 * 7 * 3 + 1).reshape(2, 35, 3)
    windows = split_windows(x, (5, 7), (4, 3))
    assert windows.shape == (2 * 2 * 3, 12, 3)
    picture = np.pad(np.asarray(x).reshape(2, 5, 7, 3), ((0, 0), (0, 3), (0, 2), (0, 0)))
    np.testing.assert_array_equal(windows[6 + 3 + 2], picture[1, 4:8, 6:9].reshape(12, 3))
    np.testing.assert_array_equal(join_windows(windows, (5, 7), (4, 3)), x)


def test_folded_relative_positions_equal_their_definition():
    rows, columns, branches, heads, width = 3, 5, 2, 2, 4
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, rows * columns, branches * heads, width)).astype(np.float32)
    down = rng.normal(size=(2 * rows - 1, branches, width)).astype(np.float32)
    across = rng.normal(size=(2 * columns - 1, branches, width)).astype(np.float32)
    wide_q, wide_k = fold_relative_positions(q, k, down, across, (rows, columns))
    scores = np.einsum("bnhf,bmhf->bhnm", wide_q, wide_k) / np.sqrt(width)
    for n, m, head in np.ndindex(rows * columns, rows * columns, branches * heads):
        branch = head // heads
        (y, x), (there_y, there_x) = divmod(n, columns), divmod(m, columns)
        query = q[0, n, head]
        expected = (
            query @ k[0, m, head] / np.sqrt(width)
            + query @ down[y - there_y + rows - 1, branch]
            + query @ across[x - there_x + columns - 1, branch]
        )
        assert scores[0, head, n, m] == pytest.approx(expected, abs=1e-5)


def test_mae_encoders_weights_load_unchanged():
    patches, positions = jnp.zeros((1, 4, 48)), jnp.zeros((4, SIZE.width))
    pretrained = flat_names(random_weights(ViT(ENCODER), patches, positions))
    model = ViTDet(ViTDetConfig(ENCODER, grid=(2, 2)))
    dense = flat_names(random_weights(model, jnp.zeros((1, 8, 8, 3))))
    assert {name for name in pretrained if name not in dense} == {
        "cls_token",
        "blocks/norm/scale",
        "blocks/norm/bias",
    }
    new = {name for name in dense if name not in pretrained}
    assert new == {
        f"blocks/block{i}/attn/relative_{axis}" for i in range(2) for axis in ("rows", "columns")
    }
    assert all(dense[name] == shape for name, shape in pretrained.items() if name in dense)


def test_all_global_without_relative_positions_is_the_plain_vit():
    images = jax.random.normal(jax.random.key(0), (2, 20, 24, 3))
    model = ViTDet(ViTDetConfig(ENCODER, grid=(5, 6)))
    params = jax.tree.map_with_path(
        lambda path, w: 0 * w if "relative" in jax.tree_util.keystr(path) else w,
        random_weights(model, images),
    )
    maps = model.apply({"params": params}, images)
    assert [x.shape for x in maps] == [(2, 5, 6, SIZE.width)] * SIZE.depth

    embed = params["patch_embed"]
    tokens = patchify(images, 4) @ embed["kernel"] + embed["bias"]
    tokens += sincos_positions((5, 6), SIZE.width, (14, 14))
    norm = {"scale": jnp.full(SIZE.width, 1.5), "bias": jnp.full(SIZE.width, 0.5)}
    expected = Blocks(ENCODER).apply({"params": params["blocks"] | {"norm": norm}}, tokens)
    last = LayerNorm().apply({"params": norm}, rearrange(maps[-1], "b r c d -> b (r c) d"))
    np.testing.assert_allclose(last, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [("vit_b12x1", 2.8), ("vit_l12x4", 18.5), ("vit_h12x4", 38.8), ("vit_g12x4", 66.6)],
)
def test_analytic_flops_of_1024_px(name, teraflops):
    # Counted independently of this code, to one decimal.
    config = ViTDetConfig(ViTConfig(vit_size(name)), grid=(64, 64))
    flops = training_flops(vitdet_flops(config))
    assert flops / 1e12 == pytest.approx(teraflops, abs=0.06)


class TestPositions:
    def test_the_pretrained_grid_itself_is_unchanged(self):
        np.testing.assert_array_equal(
            sincos_positions((14, 14), 16, (14, 14)), sincos_positions((14, 14), 16)
        )

    @pytest.mark.parametrize("grid", [(32, 32), (50, 20), (64, 64)])
    def test_stretched_as_torch_resizes_a_pretrained_table(self, grid):
        torch = pytest.importorskip("torch", reason="compares with torch's bicubic resizing")
        table = np.array(sincos_positions((14, 14), 64)).reshape(1, 14, 14, 64)
        resized = torch.nn.functional.interpolate(
            torch.tensor(table).permute(0, 3, 1, 2), size=grid, mode="bicubic"
        )
        resized = resized.permute(0, 2, 3, 1).reshape(-1, 64).numpy()
        ours = np.asarray(sincos_positions(grid, 64, (14, 14)))
        # The fastest sine has 6.3 patches a period: bicubic weights err there by some percent,
        # and in the outermost half patch, where the table is repeated, by more.
        error = np.abs(ours - resized).reshape(*grid, 64)
        inner = tuple(slice(3 * n // 28, n - 3 * n // 28) for n in grid)
        assert error[inner].max() < 0.08
        assert error.mean() < 0.01


def test_images_that_patches_do_not_divide_are_refused():
    model = ViTDet(ViTDetConfig(ENCODER, (2, 2)))
    with pytest.raises(UserError, match="image of 8x10 pixels: pad it to a multiple of .*=4"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 10, 3)))


def test_branches_are_dropped_for_all_windows_of_an_image():
    windows = {"grid": (4, 4), "window": (2, 2), "trained_window": (2, 2)}
    layer = SpatialAttention(SIZE, 0.5, jnp.float32, **windows)
    x = jax.random.normal(jax.random.key(0), (16, 16, SIZE.width))
    stream = jnp.zeros_like(x)
    params = {"params": random_weights(layer, stream, x, True)}
    kept = layer.apply(params, stream, x, True)
    dropped = layer.apply(params, stream, x, False, rngs={"drop_path": jax.random.key(3)})
    neither = jnp.abs(dropped).max((1, 2)) < 1e-6
    both = jnp.abs(dropped - 2 * kept).max((1, 2)) < 1e-4
    assert neither.any() and both.any() and not (neither | both).all()


def test_activation_checkpointing_changes_no_gradient():
    images = jax.random.normal(jax.random.key(0), (2, 24, 24, 3))
    size = dataclasses.replace(SIZE, depth=5)  # the first block alone has windows

    def model(remat):
        encoder = ViTConfig(size, patch_size=4, drop_path=0.4, remat=remat)
        return ViTDet(ViTDetConfig(encoder, grid=(6, 6), window=4))

    def gradients(remat):
        def loss(params):
            rngs = {"drop_path": jax.random.key(3)}
            maps = model(remat).apply({"params": params}, images, False, rngs=rngs)
            return jnp.square(maps[-1]).mean()

        return jax.jit(jax.grad(loss))(params)

    params = random_weights(model("none"), images)
    plain = gradients("none")
    assert jnp.abs(plain["blocks"]["block0"]["attn"]["relative_rows"]).max() > 1e-5
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), gradients("full"), plain)


class TestAttentionMemory:
    """Global attention of N tokens holds no N x N array: neither scores nor a bias."""

    def test_blocks_of_queries_equal_whole_softmax(self):
        grid = (40, 40)  # 1600 tokens: 7 blocks of 229, the last one short
        keys = jax.random.split(jax.random.key(0), 5)
        q, k, v = jax.random.normal(keys[0], (3, 1, 1600, 2, 8))
        tables = 0.3 * jax.random.normal(keys[1], (2, 79, 1, 8))

        def blocked(q, k, v, tables):
            return attention(*fold_relative_positions(q, k, *tables, grid), v, "xla")

        def whole(q, k, v, tables):
            q, k = fold_relative_positions(q, k, *tables, grid)
            scores = jnp.einsum("bnhf,bmhf->bhnm", q, k) / np.sqrt(8)
            return jnp.einsum("bhnm,bmhe->bnhe", jax.nn.softmax(scores), v)

        compiled = {}
        for function in (blocked, whole):
            weighted = lambda *x, f=function: (f(*x) * jnp.cos(jnp.arange(8.0))).sum()  # noqa: E731
            program = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2, 3)))
            compiled[function] = program.lower(q, k, v, tables).compile()
        assert "1600,1600]" in compiled[whole].as_text()
        assert "1600,1600]" not in compiled[blocked].as_text()
        ours, expected = (compiled[f](q, k, v, tables) for f in (blocked, whole))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), ours, expected)

    def test_training_on_1024_px_traces_no_array_of_tokens_squared(self):
        model = ViTDet(ViTDetConfig(dataclasses.replace(ENCODER, patch_size=16), (64, 64)))
        images = jnp.zeros((1, 1024, 1024, 3))
        params = random_weights(model, images)

        def loss(params):
            return model.apply({"params": params}, images)[-1].sum()

        jaxpr = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
        sizes = {variable.aval.size for variable in variables(jaxpr)}
        assert 256 * 4096 * SIZE.total_heads in sizes  # one block's scores
        assert max(sizes) < 4096 * 4096

    @pytest.mark.parametrize(("capability", "width"), [((8, 0), 128), ((9, 0), 256)])
    def test_cudnn_gets_no_wider_heads_than_the_card_takes(self, monkeypatch, capability, width):
        def check(asked):
            return capability >= tuple(map(int, asked.split(".")))

        monkeypatch.setattr(fused, "check_compute_capability", check)
        monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, **_: v + 1)
        for channels, taken in ((width, True), (width + 8, False)):
            x = jnp.zeros((1, 4, 2, channels), jnp.bfloat16)
            assert bool((attention(x, x, x[..., :8], "cudnn") == 1).all()) == taken

    def test_cudnn_gets_one_padded_width_and_no_bias(self, monkeypatch):
        seen = {}
        library = jax.nn.dot_product_attention

        def stand_in(q, k, v, **options):
            seen.update(options, shapes={q.shape, k.shape, v.shape})
            return library(q, k, v, **options | {"implementation": "xla"})

        monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
        width, grid = 12, (6, 4)  # 12 + 6 + 4 channels become 24
        q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 24, 3, width), jnp.bfloat16)
        tables = [0.1 * jnp.ones((2 * n - 1, 1, width)) for n in grid]
        q, k = fold_relative_positions(q, k, *tables, grid)
        ours = attention(q, k, v, "cudnn")
        assert seen == {
            "implementation": "cudnn",
            "scale": width**-0.5,
            "shapes": {(2, 24, 3, 24)},
        }
        expected = attention(q, k, v, "xla")
        np.testing.assert_allclose(
            ours.astype(jnp.float32), expected.astype(jnp.float32), atol=2e-2
        )


def variables(jaxpr):
    """All results of a program and of the programs in it."""
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jaxprs_in_params(equation.params):
            yield from variables(inner)
