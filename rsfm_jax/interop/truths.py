"""What other libraries make of the same tensors; each is imported only where it is asked.

Every function raises `Unavailable` where its library cannot be imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rsfm_jax.interop.names import Layout
from rsfm_jax.models.sizes import ViTSize

MASK_RATIO = 0.75
ANY_DECODER = ViTSize(width=64, depth=1, num_heads=1, mlp_dim=64)  # where only the encoder counts

Tensors = dict[str, np.ndarray]


class Unavailable(Exception):
    """A library is not there, or not in a state to be imported."""


@contextmanager
def _importing(library: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        needs = "" if error.name == library else f", which needs {error.name}"
        raise Unavailable(f"{library}{needs} (not installed)") from error
    # A library built for another version of torch fails in its own way.
    except Exception as error:
        raise Unavailable(f"{library} (cannot be imported: {error})") from error


def timm_features(
    tensors: Tensors, layout: Layout, images: np.ndarray
) -> tuple[str, np.ndarray]:
    """timm's `VisionTransformer` on an encoder with one branch.

    Args:
      tensors: the encoder's, with their position table.
      layout: the model's.
      images: [B, H, W, 3] normalised.

    Returns:
      (who answers, the class token and patches [B, 1+N, D] after the final norm).
    """
    with _importing("timm"):
        import timm
        from timm.models.vision_transformer import VisionTransformer
    size = layout.encoder
    model = VisionTransformer(
        img_size=images.shape[1],
        patch_size=layout.patch_size,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.num_heads,
        mlp_ratio=size.mlp_dim / size.width,
        num_classes=0,
        global_pool="token",
    )
    model.load_state_dict(_torch(tensors))
    return f"timm {timm.__version__}", _run(model.forward_features, images)


def torch_features(
    tensors: Tensors, layout: Layout, images: np.ndarray
) -> tuple[str, np.ndarray]:
    """The same of any number of branches, by `torch_vit.ParallelViT`."""
    with _importing("torch"):
        from rsfm_jax.interop.torch_vit import ParallelViT
    size = layout.encoder
    model = ParallelViT(
        width=size.width,
        depth=size.depth,
        num_heads=size.num_heads,
        mlp_dim=size.mlp_dim,
        branches=size.num_branches,
        patch_size=layout.patch_size,
        image_size=images.shape[1],
    )
    model.load_state_dict(_torch(tensors))
    return "rsfm_jax's own torch ViT", _run(model, images)


def vitmae_features(
    tensors: Tensors, layout: Layout, images: np.ndarray, config_file: Path | None
) -> tuple[str, np.ndarray]:
    """transformers' ViTMAE encoder on unmasked images; arguments as for `vitmae_pixels`."""
    who, model = _vitmae(tensors, layout, images, config_file)
    encoder = model.vit
    encoder.config.mask_ratio = 0.0
    tokens = (images.shape[1] // layout.patch_size) ** 2
    order = np.broadcast_to(np.arange(tokens, dtype=np.float32), (len(images), tokens))

    def features(pixels: Any) -> Any:
        return encoder(pixels, noise=_torch({"noise": order})["noise"]).last_hidden_state

    return who, _run(features, images)


def vitmae_pixels(
    tensors: Tensors,
    layout: Layout,
    images: np.ndarray,
    noise: np.ndarray,
    config_file: Path | None,
) -> tuple[str, np.ndarray]:
    """transformers' ViTMAE with its decoder.

    Args:
      tensors: under Hugging Face's names, with both position tables.
      layout: the model's.
      images: [B, H, W, 3] normalised.
      noise: [B, N]; the patches with the smallest quarter are seen.
      config_file: the model's own config.json, taken where it is there.

    Returns:
      (who answers, the predicted patches [B, N, p*p*3]).
    """
    who, model = _vitmae(tensors, layout, images, config_file)
    model.config.mask_ratio = MASK_RATIO
    noise = _torch({"noise": noise})["noise"]
    return who, _run(lambda pixels: model(pixels, noise=noise).logits, images)


def _vitmae(
    tensors: Tensors, layout: Layout, images: np.ndarray, config_file: Path | None
) -> tuple[str, Any]:
    """(the library's name, its model holding the tensors)."""
    with _importing("transformers"):
        import transformers
    who = f"transformers {transformers.__version__}"
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if config_file is not None and config_file.is_file():
        config = transformers.ViTMAEConfig.from_pretrained(config_file)
    else:
        encoder, decoder = layout.encoder, layout.decoder or ANY_DECODER
        config = transformers.ViTMAEConfig(
            image_size=images.shape[1],
            patch_size=layout.patch_size,
            hidden_size=encoder.width,
            num_hidden_layers=encoder.depth,
            num_attention_heads=encoder.num_heads,
            intermediate_size=encoder.mlp_dim,
            decoder_hidden_size=decoder.width,
            decoder_num_hidden_layers=decoder.depth,
            decoder_num_attention_heads=decoder.num_heads,
            decoder_intermediate_size=decoder.mlp_dim,
            layer_norm_eps=1e-6,  # MAE's
        )
    # An encoder alone has no prefix.
    whole = {
        name if name.startswith(("vit.", "decoder.")) else f"vit.{name}": value
        for name, value in tensors.items()
    }
    model, report = transformers.ViTMAEForPreTraining.from_pretrained(
        None, config=config, state_dict=_torch(whole), output_loading_info=True
    )
    missing = [name for name in report["missing_keys"] if layout.decoder or "decoder" not in name]
    if missing or report["unexpected_keys"]:
        raise Unavailable(f"{who} (has other weights, such as {sorted(missing)[:1]})")
    return who, model.eval()


def _torch(tensors: Tensors) -> dict[str, Any]:
    import torch

    return {name: torch.tensor(value) for name, value in tensors.items()}


def _run(model: Any, images: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
