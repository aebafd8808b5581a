"""Which outputs of a model are compared, and with whom."""

from pathlib import Path
from typing import Any

from rsfm_jax.interop import check, truths
from rsfm_jax.interop.huggingface import from_mae_names
from rsfm_jax.interop.names import Layout, Tensors

DECODER_NAMES = ("decoder_", "mask_token")


def compare_encoder(
    encoder: Any, named: Tensors, layout: Layout, image_size: int, what: str = "encoder's features"
) -> str:
    """Our encoder against timm, or where it has branches or timm is not there, torch.

    Args:
      encoder: our weights.
      named: the same by timm's names, with their position table; a decoder's are left aside.
      layout: the model's.
      image_size: pixels a side.
      what: is compared, for the line.

    Returns:
      The line to print.

    Raises:
      UserError: the outputs differ.
    """
    images = check.seeded_image(image_size)
    tensors = {name: x for name, x in named.items() if not name.startswith(DECODER_NAMES)}
    questions = [lambda: truths.torch_features(tensors, layout, images)]
    if layout.encoder.num_branches == 1:
        questions.insert(0, lambda: truths.timm_features(tensors, layout, images))
    return check.compare(what, check.our_features(encoder, layout, images), *questions)


def compare_vitmae(
    params: Any,
    named: Tensors,
    layout: Layout,
    image_size: int,
    hub: tuple[Tensors, Path] | None = None,
) -> str:
    """Our model with one branch against transformers' ViTMAE.

    Args:
      params: our weights; without a decoder the encoder's features are compared.
      named: the same by MAE's names, with their position tables.
      layout: the model's.
      image_size: pixels a side.
      hub: tensors as Hugging Face names them, and the config.json beside them, which need not
        be there; None makes them of `named`.

    Returns:
      The line to print.

    Raises:
      UserError: the outputs differ.
    """
    images = check.seeded_image(image_size)
    tensors, config_file = hub or (from_mae_names(named), None)
    if layout.decoder is None:
        return check.compare(
            "encoder's features",
            check.our_features(params["encoder"], layout, images),
            lambda: truths.vitmae_features(tensors, layout, images, config_file),
        )
    noise = check.seeded_noise((image_size // layout.patch_size) ** 2)
    return check.compare(
        "reconstruction",
        check.our_pixels(params, layout, images, noise),
        lambda: truths.vitmae_pixels(tensors, layout, images, noise, config_file),
    )
