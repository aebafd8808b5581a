"""Analytic FLOPs: matrix products only, 2 a multiply-add, no recompute."""

from rsfm_jax.boxes.anchors import RATIOS
from rsfm_jax.boxes.roi_align import OUTPUT
from rsfm_jax.models.classifier import ClassifierConfig
from rsfm_jax.models.mae import MAEConfig
from rsfm_jax.models.oriented_rcnn import OrientedRCNN
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.upernet import POOL_BINS, UPerNet
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


def classifier_training_flops(
    config: ClassifierConfig, image_size: int, channels: int = 3
) -> int:
    """Forward + backward FLOPs of one image; a probe's backward pass is the head's weights' alone.

    The head's input needs no gradient there.
    """
    size, patch_size = config.encoder.size, config.encoder.patch_size
    patches = (image_size // patch_size) ** 2
    embed = 2 * patches * patch_size**2 * channels * size.width
    encoder = embed + blocks_flops(size, patches + 1)
    head = 2 * size.width * config.num_classes
    return encoder + 2 * head if config.probe else 3 * (encoder + head) - embed


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


def oriented_rcnn_training_flops(model: OrientedRCNN, channels: int = 3) -> int:
    """Forward + backward FLOPs of one image: backbone, pyramid and both stages' layers.

    The second stage counts the sampled regions. Pooling, overlaps and suppression are no matrix
    products.
    """
    backbone, width = model.backbone, model.backbone.encoder.size.width
    rows, columns = backbone.grid
    patch_size = backbone.encoder.patch_size
    rpn, roi = model.rpn, model.roi

    def cells(stride: int) -> int:
        return -(-rows * patch_size // stride) * -(-columns * patch_size // stride)

    p2, p3, p4, p5, _ = (cells(stride) for stride in rpn.strides)
    half, quarter = width // 2, width // 4
    upsampling = 4 * p4 * width * half + 4 * p3 * half * quarter + 4 * p4 * width * half
    maps = zip((p2, p3, p4, p5), (quarter, half, width, width), strict=True)
    smoothing = sum(size * (depth + 9 * model.channels) for size, depth in maps) * model.channels
    outputs = len(RATIOS) * (1 + 6)
    proposing = sum(map(cells, rpn.strides)) * model.channels * (9 * model.channels + outputs)
    pooled = OUTPUT * OUTPUT * model.channels
    region = (pooled + roi.hidden + roi.num_classes + 1 + 5) * roi.hidden
    heads = 2 * (upsampling + smoothing + proposing + roi.samples * region)
    return vitdet_training_flops(backbone, channels) + 3 * heads


def upernet_training_flops(model: UPerNet, channels: int = 3) -> int:
    """Forward + backward FLOPs of one image of the trained grid: backbone and convolutions.

    Resizing and pooling are not counted.
    """
    width, features = model.backbone.encoder.size.width, model.channels
    rows, columns = model.backbone.grid
    pixels = [
        *(rows * columns * scale**2 for scale in (4, 2, 1)),  # of the four maps, finest first
        -(-rows // 2) * -(-columns // 2),
    ]
    upsampling = 2 * width * width * 4 * (pixels[2] + pixels[1] + pixels[2])
    pooling = 2 * width * features * sum(bins**2 for bins in POOL_BINS)
    pooled = width + len(POOL_BINS) * features
    head = (
        pooling
        + 2 * 9 * pooled * features * pixels[3]
        + sum(2 * (width + 9 * features) * features * count for count in pixels[:3])
        + 2 * 9 * len(pixels) * features * features * pixels[0]
        + 2 * features * model.num_classes * pixels[0]
    )
    auxiliary = 2 * (9 * width + model.num_classes) * model.auxiliary_channels * pixels[2]
    return vitdet_training_flops(model.backbone, channels) + 3 * (upsampling + head + auxiliary)
