"""Our backbone against the VitDet of transformers: same weights and images, one branch."""

import jax
import numpy as np
import pytest
from einops import rearrange

from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.vit import ViTConfig, sincos_positions
from rsfm_jax.models.vitdet import ViTDet, ViTDetConfig

torch = pytest.importorskip("torch", reason="the reference model needs torch")
transformers = pytest.importorskip("transformers", reason="the reference model comes from there")

SIZE = ViTSize(width=24, depth=6, num_heads=3, mlp_dim=48)
PATCH, WINDOW, GRID = 4, 4, (9, 6)  # windows pad both sides


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    model = transformers.VitDetModel(
        transformers.VitDetConfig(
            image_size=[GRID[0] * PATCH, GRID[1] * PATCH],
            pretrain_image_size=GRID[0] * PATCH,
            patch_size=PATCH,
            hidden_size=SIZE.width,
            num_hidden_layers=SIZE.depth,
            num_attention_heads=SIZE.num_heads,
            mlp_ratio=2,
            window_size=WINDOW,
            window_block_indices=[0, 3],
            use_relative_position_embeddings=True,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # no zero bias, no unit scale, no zero distance
            parameter.add_(0.2 * torch.randn_like(parameter))
        model.embeddings.position_embeddings.zero_()  # the test adds ours
    return model


def linear(state, name):
    return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}


def norm(state, name):
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def block(state, name):
    qkv = linear(state, f"{name}.attention.qkv")
    out = linear(state, f"{name}.attention.proj")
    inner, outer = linear(state, f"{name}.mlp.fc1"), linear(state, f"{name}.mlp.fc2")
    heads = {"k": 3, "h": SIZE.num_heads}
    return {
        "norm1": norm(state, f"{name}.norm1"),
        "norm2": norm(state, f"{name}.norm2"),
        "attn": {
            "qkv_kernel": rearrange(qkv["kernel"], "d (k h e) -> d k h e", **heads),
            "qkv_bias": rearrange(qkv["bias"], "(k h e) -> k h e", **heads),
            "out_kernel": out["kernel"],
            "out_bias": out["bias"][None],
            "relative_rows": state[f"{name}.attention.rel_pos_h"][:, None],
            "relative_columns": state[f"{name}.attention.rel_pos_w"][:, None],
        },
        "mlp": {
            "in_kernel": inner["kernel"],
            "in_bias": inner["bias"],
            "out_kernel": outer["kernel"],
            "out_bias": outer["bias"][None],
        },
    }


def as_ours(model):
    state = {key: value.detach().numpy() for key, value in model.named_parameters()}
    kernel = rearrange(state["embeddings.projection.weight"], "d c p q -> (p q c) d")
    layers = range(SIZE.depth)
    return {
        "patch_embed": {"kernel": kernel, "bias": state["embeddings.projection.bias"]},
        "blocks": {f"block{i}": block(state, f"encoder.layer.{i}") for i in layers},
    }


# The second image is larger than the trained grid: its global distances are interpolated.
@pytest.mark.parametrize("grid", [GRID, (10, 11)])
def test_every_blocks_map_agrees_with_transformers(reference, grid):
    shape = (2, grid[0] * PATCH, grid[1] * PATCH, 3)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    positions = np.asarray(sincos_positions(grid, SIZE.width, (14, 14)))
    with torch.no_grad():
        tokens = reference.embeddings(torch.tensor(rearrange(images, "b h w c -> b c h w")))
        positions = rearrange(positions, "(r c) d -> d r c", r=grid[0])
        encoded = reference.encoder(tokens + torch.tensor(positions), output_hidden_states=True)
    model = ViTDet(ViTDetConfig(ViTConfig(SIZE, PATCH), GRID, WINDOW))
    maps = jax.jit(model.apply)({"params": as_ours(reference)}, images)
    for ours, theirs in zip(maps, encoded.hidden_states[1:], strict=True):
        expected = rearrange(theirs.numpy(), "b d r c -> b r c d")
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-5)
