"""Analytic FLOPs: matrix products only, 2 a multiply-add, no recompute."""

from rsfm_jax.models.mae import MAEConfig
from rsfm_jax.models.sizes import ViTSize


def blocks_flops(size: ViTSize, tokens: int) -> int:
    """Forward FLOPs of one image's blocks.

    A layer and branch: 4 d^2 a token for q, k, v and out (times 2), 2 d m for the feed-forward
    (times 2), and 2 n^2 d (times 2) for scores and mixing of n tokens.
    """
    d, m, n = size.width, size.mlp_dim, tokens
    layer = 2 * n * (4 * d * d + 2 * d * m) + 4 * n * n * d
    return size.depth * size.num_branches * layer


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
