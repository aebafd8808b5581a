"""Sizes, and that the fused block is P separate branches."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.flops import training_flops
from rsfm_jax.models.flops import mae_flops
from rsfm_jax.models.layers import gelu
from rsfm_jax.models.mae import MAE, MAEConfig, draw_mask, reconstruction_loss, targets, unshuffle
from rsfm_jax.models.sizes import ViTSize, vit_size
from rsfm_jax.models.vit import (
    REMAT_POLICIES,
    ParallelAttention,
    ParallelMlp,
    ViT,
    ViTConfig,
    patchify,
    unpatchify,
)
from rsfm_jax.sharding.rules import is_boxed, is_matrix, unbox

SIZE = ViTSize(width=24, depth=3, num_heads=3, mlp_dim=40, num_branches=4)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vit_b12x1", 85_647_360),
        ("vit_l12x4", 605_261_824),
        ("vit_h12x4", 1_360_877_568),
        ("vit_g12x4", 2_418_483_200),
    ],
)
def test_encoders_have_the_papers_parameter_counts(name, count):
    config = ViTConfig(vit_size(name))
    patches = jax.ShapeDtypeStruct((1, 49, 16 * 16 * 3), jnp.float32)
    positions = jax.ShapeDtypeStruct((49, config.size.width), jnp.float32)
    params = jax.eval_shape(ViT(config).init, jax.random.key(0), patches, positions)
    assert sum(x.size for x in jax.tree.leaves(params)) == count


def test_every_bias_norm_and_token_is_spared_weight_decay():
    model = MAE(MAEConfig(ViTConfig(SIZE, patch_size=4), decoder=ViTSize(16, 2, 2, 32)))
    mask = jax.eval_shape(lambda: draw_mask(jnp.zeros((1, 16)), 0.75))
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    boxed = jax.eval_shape(model.init, jax.random.key(0), images, mask)
    leaves = jax.tree.leaves_with_path(boxed, is_leaf=is_boxed)
    decayed = {path[-1].key for path, leaf in leaves if is_matrix(leaf)}
    assert decayed == {"kernel", "qkv_kernel", "in_kernel", "out_kernel"}


def random_weights(module, x):
    """Weights in which no bias is zero, so that every one of them counts."""
    params = unbox(module.init(jax.random.key(0), x, x, True))["params"]
    keys = iter(jax.random.split(jax.random.key(1), 99))
    return jax.tree.map(lambda w: 0.3 * jax.random.normal(next(keys), w.shape), params)


def attention_branch(params, x, p):
    """Branch p on its own, written with plain per-head products."""
    heads = slice(p * SIZE.num_heads, (p + 1) * SIZE.num_heads)
    qkv = jnp.einsum("bnd,dkhe->kbhne", x, params["qkv_kernel"][:, :, heads])
    q, k, v = qkv + params["qkv_bias"][:, None, heads, None]
    scores = jax.nn.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(SIZE.head_dim), axis=-1)
    mixed = (scores @ v).transpose(0, 2, 1, 3).reshape(*x.shape)
    rows = slice(p * SIZE.width, (p + 1) * SIZE.width)
    return mixed @ params["out_kernel"][rows] + params["out_bias"][p]


def mlp_branch(params, x, p):
    """Branch p on its own."""
    units = slice(p * SIZE.mlp_dim, (p + 1) * SIZE.mlp_dim)
    hidden = x @ params["in_kernel"][:, units] + params["in_bias"][units]
    hidden = hidden * 0.5 * (1 + jax.scipy.special.erf(hidden / np.sqrt(2)))
    return hidden @ params["out_kernel"][units] + params["out_bias"][p]


@pytest.mark.parametrize(
    ("module", "branch"), [(ParallelAttention, attention_branch), (ParallelMlp, mlp_branch)]
)
class TestFusedBranches:
    stream, x = jax.random.normal(jax.random.key(2), (2, 6, 5, SIZE.width))

    def test_equal_separate_branches(self, module, branch):
        layer = module(SIZE, 0.0, jnp.float32)
        params = random_weights(layer, self.x)
        fused = layer.apply({"params": params}, self.stream, self.x, True) - self.stream
        separate = sum(branch(params, self.x, p) for p in range(SIZE.num_branches))
        np.testing.assert_allclose(fused, separate, atol=2e-5)

    def test_drop_path_drops_whole_branches_of_single_images(self, module, branch):
        layer = module(SIZE, 0.5, jnp.float32)
        params = random_weights(layer, self.x)
        rngs = {"drop_path": jax.random.key(3)}
        dropped = layer.apply({"params": params}, self.stream, self.x, False, rngs=rngs)
        dropped -= self.stream
        branches = jnp.stack([branch(params, self.x, p) for p in range(SIZE.num_branches)])
        subsets = jnp.array(list(itertools.product([0.0, 2.0], repeat=SIZE.num_branches)))
        candidates = jnp.einsum("sp,pbnd->sbnd", subsets, branches)
        errors = jnp.abs(candidates - dropped).max((2, 3))  # [subsets, images]
        assert errors.min(0).max() < 2e-5
        assert len(set(errors.argmin(0).tolist())) > 1


def test_patchify_keeps_neighbours_together():
    image = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = patchify(image, 2)
    np.testing.assert_array_equal(patches[1, 4], image[1, 2:4, 2:4].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 2, (2, 3)), image)


def test_unshuffle_puts_every_visible_token_back():
    mask = draw_mask(jax.random.uniform(jax.random.key(0), (2, 8)), 0.75)
    visible = jnp.arange(1.0, 5.0).reshape(2, 2, 1)
    full = np.asarray(unshuffle(visible, jnp.full((1, 1, 1), -1.0), mask))[..., 0]
    assert (full == -1).sum() == 12
    for image in range(2):
        np.testing.assert_array_equal(full[image][mask.visible[image]], visible[image, :, 0])
        assert set(np.flatnonzero(mask.hidden[image])) == set(np.flatnonzero(full[image] == -1))


def mae_gradients(remat, dtype=jnp.float32):
    config = MAEConfig(
        ViTConfig(SIZE, patch_size=4, remat=remat, drop_path=0.3, dtype=dtype),
        decoder=ViTSize(16, 2, 2, 32),
    )
    model = MAE(config)
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    mask = draw_mask(jax.random.uniform(jax.random.key(1), (4, 16)), 0.75)
    params = unbox(model.init(jax.random.key(2), images, mask))

    @jax.jit
    def loss(params):
        rngs = {"drop_path": jax.random.key(3)}
        predicted = model.apply(params, images, mask, False, rngs=rngs)
        return reconstruction_loss(predicted, targets(images, config), mask)

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize("remat", sorted(set(REMAT_POLICIES) - {"none"}))
def test_activation_checkpointing_changes_no_gradient(remat):
    plain_loss, plain = mae_gradients("none")
    loss, gradients = mae_gradients(remat)
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, plain)


def test_bfloat16_compute_keeps_float32_masters_and_nearly_the_loss():
    loss, gradients = mae_gradients("none", jnp.bfloat16)
    exact, _ = mae_gradients("none")
    assert {x.dtype for x in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, exact, rtol=2e-2)
    assert loss != exact


def test_gelu_is_exact_in_both_passes():
    x = jnp.linspace(-12, 12, 4001)
    exact = np.array([0.5 * v * (1 + math.erf(v / 2**0.5)) for v in np.float64(x)])
    np.testing.assert_allclose(gelu(x), exact, atol=2e-6)
    plain = jax.vmap(jax.grad(lambda v: jax.nn.gelu(v, approximate=False)))(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), plain, atol=2e-6)
    _, backward = jax.vjp(gelu, x)
    assert [kept.shape for kept in jax.tree.leaves(backward)] == [x.shape]


@pytest.mark.parametrize(
    ("name", "gigaflops"),
    [("vit_b12x1", 58.1), ("vit_l12x4", 215.1), ("vit_h12x4", 442.5), ("vit_g12x4", 760.5)],
)
def test_analytic_flops_of_the_papers_sizes(name, gigaflops):
    # Counted independently, with the class token in the decoder (197 tokens).
    flops = training_flops(mae_flops(MAEConfig(ViTConfig(vit_size(name))), 224))
    assert flops / 1e9 == pytest.approx(gigaflops, rel=2e-3)
