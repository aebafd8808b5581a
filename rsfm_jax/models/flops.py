"""Analytic FLOPs: matrix products only, 2 a multiply-add, no recompute.

The backward pass of a product is two products, one where nobody takes its input's gradient.
"""

from rsfm_jax.boxes.anchors import RATIOS
from rsfm_jax.boxes.roi_align import OUTPUT
from rsfm_jax.flops import Term, product
from rsfm_jax.models.classifier import ClassifierConfig
from rsfm_jax.models.mae import MAEConfig
from rsfm_jax.models.oriented_rcnn import OrientedRCNN
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.upernet import POOL_BINS, UPerNet
from rsfm_jax.models.vitdet import ViTDetConfig, global_blocks


def products_of_blocks(name: str, size: ViTSize, tokens: int, passes: int = 3) -> Term:
    """All layers' products with weights: 4 d^2 a token for q, k, v and out, 2 d m for the MLP."""
    d, m = size.width, size.mlp_dim
    forward = size.depth * size.num_branches * 2 * tokens * (4 * d * d + 2 * d * m)
    formula = (
        f"{size.depth} layers x {size.num_branches} branches x 2 x {tokens} tokens x "
        f"(4 x {d}^2 + 2 x {d} x {m})"
    )
    return Term(f"{name} products", forward, formula, passes)


def attention_of_blocks(
    name: str, size: ViTSize, layers: int, queries: int, keys: int, passes: int = 3
) -> Term:
    """Scores and mixing of `layers` layers: 2 d each for every query and key."""
    forward = layers * size.num_branches * 4 * queries * keys * size.width
    formula = (
        f"{layers} layers x {size.num_branches} branches x 4 x {queries} queries x {keys} keys x "
        f"{size.width}"
    )
    return Term(f"{name} attention", forward, formula, passes)


def blocks(name: str, size: ViTSize, tokens: int, passes: int = 3) -> list[Term]:
    """One image's blocks of global attention."""
    return [
        products_of_blocks(name, size, tokens, passes),
        attention_of_blocks(name, size, size.depth, tokens, tokens, passes),
    ]


def mae_flops(config: MAEConfig, image_size: int, channels: int = 3) -> list[Term]:
    """One image: visible tokens only in the encoder, and no gradient of its pixels."""
    encoder, decoder = config.encoder, config.decoder
    patches = (image_size // encoder.patch_size) ** 2
    visible = int(patches * (1 - config.mask_ratio))
    pixels = encoder.patch_size**2 * channels
    return [
        product("patch embedding", visible, pixels, encoder.size.width, passes=2),
        *blocks("encoder", encoder.size, visible + 1),
        product("decoder embedding", visible + 1, encoder.size.width, decoder.width),
        *blocks("decoder", decoder, patches + config.decoder_class_token),
        product("prediction", patches, decoder.width, pixels),
    ]


def classifier_flops(config: ClassifierConfig, image_size: int, channels: int = 3) -> list[Term]:
    """One image; a probe's backward pass is the head's weights' alone."""
    size, patch_size = config.encoder.size, config.encoder.patch_size
    patches = (image_size // patch_size) ** 2
    embed, encoder, head = (1, 1, 2) if config.probe else (2, 3, 3)
    return [
        product("patch embedding", patches, patch_size**2 * channels, size.width, embed),
        *blocks("encoder", size, patches + 1, encoder),
        product("head", 1, size.width, config.num_classes, head),
    ]


def vitdet_flops(config: ViTDetConfig, channels: int = 3) -> list[Term]:
    """One image of the trained grid, without heads.

    Tokens that pad windows and the channels that carry relative positions are not counted:
    they are no work of the model's.
    """
    size, (rows, columns) = config.encoder.size, config.grid
    tokens, pixels = rows * columns, config.encoder.patch_size**2 * channels
    whole = len(set(global_blocks(size.depth)))
    return [
        product("patch embedding", tokens, pixels, size.width, passes=2),
        products_of_blocks("encoder", size, tokens),
        attention_of_blocks("global", size, whole, tokens, tokens),
        attention_of_blocks("windowed", size, size.depth - whole, tokens, config.window**2),
    ]


def oriented_rcnn_flops(model: OrientedRCNN, channels: int = 3) -> list[Term]:
    """One image: backbone, pyramid and both stages' layers.

    The second stage counts the sampled regions. Pooling, overlaps and suppression are no matrix
    products.
    """
    backbone, width = model.backbone, model.backbone.encoder.size.width
    rows, columns = backbone.grid
    patch_size = backbone.encoder.patch_size
    rpn, roi, features = model.rpn, model.roi, model.channels

    def cells(stride: int) -> int:
        return -(-rows * patch_size // stride) * -(-columns * patch_size // stride)

    p2, p3, p4, p5, _ = levels = [cells(stride) for stride in rpn.strides]
    half, quarter = width // 2, width // 4
    maps = zip((p2, p3, p4, p5), (quarter, half, width, width), strict=True)
    outputs = len(RATIOS) * (1 + 6)
    pooled = OUTPUT * OUTPUT * features
    return [
        *vitdet_flops(backbone, channels),
        product("pyramid upsampling, to 1/8 and 1/4", p4, width, 2 * 4 * half),
        product("pyramid upsampling, 1/8 to 1/4", p3, half, 4 * quarter),
        *(
            product(f"pyramid map of {size} cells", size, depth + 9 * features, features)
            for size, depth in maps
        ),
        product("proposals", sum(levels), features, 9 * features + outputs),
        product("regions", roi.samples, pooled + roi.hidden + roi.num_classes + 1 + 5, roi.hidden),
    ]


def upernet_flops(model: UPerNet, channels: int = 3) -> list[Term]:
    """One image of the trained grid: backbone and convolutions; no resizing, no pooling."""
    width, features = model.backbone.encoder.size.width, model.channels
    rows, columns = model.backbone.grid
    # Pixels of the four maps, finest first.
    fine, middle, coarse = (rows * columns * scale**2 for scale in (4, 2, 1))
    coarsest = -(-rows // 2) * -(-columns // 2)
    pooled = width + len(POOL_BINS) * features
    return [
        *vitdet_flops(model.backbone, channels),
        product("pyramid upsampling", 2 * coarse + middle, width, 4 * width),
        product("pooled maps", sum(bins**2 for bins in POOL_BINS), width, features),
        product("pooling bottleneck", coarsest, 9 * pooled, features),
        product("lateral maps", fine + middle + coarse, width + 9 * features, features),
        product("fusion", fine, 9 * 4 * features, features),
        product("classes", fine, features, model.num_classes),
        product("auxiliary head", coarse, 9 * width + model.num_classes, model.auxiliary_channels),
    ]
