"""Our MAE against the ViTMAE of transformers: same weights, images and mask noise."""

import jax
import numpy as np
import pytest
from einops import rearrange

from rsfm_jax.models.mae import MAE, MAEConfig, draw_mask, reconstruction_loss, targets
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.vit import ViTConfig

torch = pytest.importorskip("torch", reason="the reference model needs torch")
transformers = pytest.importorskip("transformers", reason="the reference model comes from there")
reference = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")

IMAGE, PATCH = 48, 8
ENCODER = ViTSize(width=48, depth=3, num_heads=4, mlp_dim=96)
DECODER = ViTSize(width=32, depth=2, num_heads=2, mlp_dim=64)


def reference_model(norm_pix_loss):
    torch.manual_seed(0)
    model = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            image_size=IMAGE,
            patch_size=PATCH,
            hidden_size=ENCODER.width,
            num_hidden_layers=ENCODER.depth,
            num_attention_heads=ENCODER.num_heads,
            intermediate_size=ENCODER.mlp_dim,
            decoder_hidden_size=DECODER.width,
            decoder_num_hidden_layers=DECODER.depth,
            decoder_num_attention_heads=DECODER.num_heads,
            decoder_intermediate_size=DECODER.mlp_dim,
            layer_norm_eps=1e-6,
            norm_pix_loss=norm_pix_loss,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():  # no zero bias, no unit scale
            parameter.add_(0.05 * torch.randn_like(parameter))
        # A model made from a config has zero position tables in transformers 5.
        side = IMAGE // PATCH
        for width, table in (
            (ENCODER.width, model.vit.embeddings.position_embeddings),
            (DECODER.width, model.decoder.decoder_pos_embed),
        ):
            rows_first = reference.build_2d_sinusoidal_position_embedding(
                side, side, width, cls_token=True
            )
            # MAE's own tables, which published weights carry, have the columns' half first.
            table.copy_(torch.roll(rows_first, width // 2, dims=-1))
    return model.train()


def linear(state, name):
    return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}


def norm(state, name):
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def block(state, name, size):
    """One transformers layer as ours with P = 1."""
    parts = [linear(state, f"{name}.attention.{part}_proj") for part in "qkv"]
    heads = (size.num_heads, size.head_dim)
    kernels = [part["kernel"].reshape(size.width, *heads) for part in parts]
    out = linear(state, f"{name}.attention.o_proj")
    inner = linear(state, f"{name}.mlp.fc1")
    outer = linear(state, f"{name}.mlp.fc2")
    return {
        "norm1": norm(state, f"{name}.layernorm_before"),
        "norm2": norm(state, f"{name}.layernorm_after"),
        "attn": {
            "qkv_kernel": np.stack(kernels, axis=1),
            "qkv_bias": np.stack([part["bias"].reshape(heads) for part in parts]),
            "out_kernel": out["kernel"],
            "out_bias": out["bias"][None],
        },
        "mlp": {
            "in_kernel": inner["kernel"],
            "in_bias": inner["bias"],
            "out_kernel": outer["kernel"],
            "out_bias": outer["bias"][None],
        },
    }


def blocks(state, layers, final_norm, size):
    numbered = {f"block{i}": block(state, f"{layers}.{i}", size) for i in range(size.depth)}
    return numbered | {"norm": norm(state, final_norm)}


def as_ours(state):
    """A torch state dict, or its gradients, in our layout."""
    state = {key: np.asarray(value) for key, value in state.items()}
    projection = "vit.embeddings.patch_embeddings.projection"
    kernel = rearrange(state[f"{projection}.weight"], "d c p q -> (p q c) d")
    return {
        "encoder": {
            "cls_token": state["vit.embeddings.cls_token"],
            "patch_embed": {"kernel": kernel, "bias": state[f"{projection}.bias"]},
            "blocks": blocks(state, "vit.layers", "vit.layernorm", ENCODER),
        },
        "decoder_embed": linear(state, "decoder.decoder_embed"),
        "mask_token": state["decoder.mask_token"],
        "decoder": blocks(state, "decoder.decoder_layers", "decoder.decoder_norm", DECODER),
        "prediction": linear(state, "decoder.decoder_pred"),
    }


@pytest.mark.parametrize("normalize_targets", [True, False])
def test_loss_and_gradients_agree_with_transformers(normalize_targets):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, IMAGE, IMAGE, 3)).astype(np.float32)
    noise = rng.random((3, (IMAGE // PATCH) ** 2), np.float32)

    model = reference_model(norm_pix_loss=normalize_targets)
    pixels = torch.tensor(rearrange(images, "b h w c -> b c h w"))
    expected = model(pixels, noise=torch.tensor(noise)).loss
    expected.backward()
    expected_gradients = as_ours(
        {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    )
    params = as_ours({name: p.detach() for name, p in model.named_parameters()})

    config = MAEConfig(
        ViTConfig(ENCODER, patch_size=PATCH),
        decoder=DECODER,
        normalize_targets=normalize_targets,
    )

    @jax.jit
    def loss(params):
        mask = draw_mask(noise, config.mask_ratio)
        predicted = MAE(config).apply({"params": params}, images, mask)
        return reconstruction_loss(predicted, targets(images, config), mask)

    value, gradients = jax.value_and_grad(loss)(params)
    assert float(value) == pytest.approx(expected.item(), abs=1e-5)
    compared = jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5),
        gradients,
        expected_gradients,
    )
    assert jax.tree.structure(compared) == jax.tree.structure(jax.tree.map(lambda _: None, params))
    assert max(np.abs(x).max() for x in jax.tree.leaves(expected_gradients)) > 1e-2
