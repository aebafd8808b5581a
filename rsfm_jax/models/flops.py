"""Analytic FLOPs: matrix products only, 2 a multiply-add, no recompute."""

from rsfm_jax.models.mae import MAEConfig
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.vitdet import ViTDetConfig, global_blocks


def products_flops(size: ViTSize, tokens: int) -> int:
    """One layer's products with weights: 4 d^2 a token for q, k, v and out, 2 d m for the MLP."""
    d, m = size.width, size.mlp_dim
    return size.num_branches * 2 * tokens * (4 * d * d + 2 * d * m)


def attention_flops(size: ViTSize, queries: int, keys: int) -> int:
    """One layer's scores and mixing: 2 d each for every query and key."""
    return size.num_branches * 4 * queries * keys * size.width


def blocks_flops(size: ViTSize, tokens: int) -> int:
    """Forward FLOPs of one image's blocks of global attention."""
    return size.depth * (products_flops(size, tokens) + attention_flops(size, tokens, tokens))


def mae_training_flops(config: MAEConfig, image_size: int, channels: int = 3) -> int:
    """Forward + backward FLOPs of one image: visible tokens only in the encoder.

    The backward pass is twice the forward pass, less the pixels' gradient, which nobody takes.
    """
    encoder, decoder = config.encoder, config.decoder
    patches = (image_size // encoder.patch_size) ** 2
    visible = int(patches * (1 - config.mask_ratio))
    pixels = encoder.patch_size**2 * channels
    embed = 2 * visible * pixels * encoder.size.width
    forward = (
        embed
        + blocks_flops(encoder.size, visible + 1)
        + 2 * (visible + 1) * encoder.size.width * decoder.width
        + blocks_flops(decoder, patches + config.decoder_class_token)
        + 2 * patches * decoder.width * pixels
    )
    return 3 * forward - embed


def vitdet_training_flops(config: ViTDetConfig, channels: int = 3) -> int:
    """Forward + backward FLOPs of one image of the trained grid, without heads.

    Tokens that pad windows and the channels that carry relative positions are not counted:
    they are no work of the model's.
    """
    size, (rows, columns) = config.encoder.size, config.grid
    tokens = rows * columns
    whole = len(set(global_blocks(size.depth)))
    embed = 2 * tokens * config.encoder.patch_size**2 * channels * size.width
    forward = (
        embed
        + size.depth * products_flops(size, tokens)
        + whole * attention_flops(size, tokens, tokens)
        + (size.depth - whole) * attention_flops(size, tokens, config.window**2)
    )
    return 3 * forward - embed
