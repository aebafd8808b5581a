"""Models of timm and transformers, tiny, with MAE's position tables; nobody here wrote them."""

import pytest

from rsfm_jax.interop.positions import position_table
from rsfm_jax.models.sizes import ViTSize

torch = pytest.importorskip("torch", reason="the models compared with need torch")
save_file = pytest.importorskip("safetensors.torch").save_file
load_file = pytest.importorskip("safetensors.torch").load_file
transformers = pytest.importorskip("transformers", reason="ViTMAE comes from there")
vision_transformer = pytest.importorskip(
    "timm.models.vision_transformer", reason="the ViT compared with comes from timm"
)

IMAGE, PATCH, SIDE = 48, 8, 6
SIZE = ViTSize(width=48, depth=2, num_heads=4, mlp_dim=96)


def unsettle(model):
    """No zero bias and no unit scale left."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def timm_model(**arguments):
    """timm's ViT with MAE's table."""
    defaults = dict(img_size=IMAGE, patch_size=PATCH, embed_dim=48, depth=2, num_heads=4)
    model = vision_transformer.VisionTransformer(
        **defaults | {"mlp_ratio": 2, "num_classes": 0} | arguments
    )
    width = model.embed_dim
    unsettle(model).pos_embed.data = torch.tensor(position_table(SIDE, width, class_token=True))
    return model


def vitmae(**arguments):
    """transformers' ViTMAE with MAE's tables."""
    config = transformers.ViTMAEConfig(
        image_size=IMAGE,
        patch_size=PATCH,
        hidden_size=SIZE.width,
        num_hidden_layers=SIZE.depth,
        num_attention_heads=SIZE.num_heads,
        intermediate_size=SIZE.mlp_dim,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=128,
        **arguments,
    )
    model = unsettle(transformers.ViTMAEForPreTraining(config))
    tables = position_table(SIDE, SIZE.width, True), position_table(SIDE, 32, True)
    model.vit.embeddings.position_embeddings.data = torch.tensor(tables[0])
    model.decoder.decoder_pos_embed.data = torch.tensor(tables[1])
    return model
