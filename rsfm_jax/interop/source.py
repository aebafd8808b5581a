"""A foreign file or downloaded folder as what our models need to know of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from rsfm_jax.errors import UserError
from rsfm_jax.interop import huggingface
from rsfm_jax.interop.files import WEIGHT_FILES, find_weights, read_tensors
from rsfm_jax.interop.names import Layout
from rsfm_jax.interop.positions import take_grid_side
from rsfm_jax.models.sizes import SIZES, ViTSize

# Heads cannot be read off the weights. These are timm's and MAE's, by width.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
DECODER_HEADS = 16  # of every published MAE
# What MAE's models and timm's copies of them were trained on (ImageNet's statistics).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Source:
    """A foreign model, read.

    Attributes:
      file: where the weights are.
      family: `mae` for MAE's and timm's names, `vitmae` for Hugging Face's.
      stored: all tensors as the file names them, float32.
      tensors: those of the model, MAE's names, without position tables and classifier.
      size_name: the name of the encoder's size.
      layout: sizes and names.
      image_size: pixels a side that the position table is for.
      mean, std: of the three bands, for pixels in [0, 1].
      normalize_targets: whether the decoder predicts normalised patches.
      left: names that were left out because no model here has them.
    """

    file: Path
    from_hub: bool
    stored: dict[str, np.ndarray]
    named: dict[str, np.ndarray]
    tensors: dict[str, np.ndarray]
    size_name: str
    layout: Layout
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalize_targets: bool
    left: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Given:
    """What the command line says because a file cannot; None takes the file's or the usual."""

    heads: int | None = None
    decoder_heads: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_source(path: Path, given: Given) -> Source:
    """Reads a torch MAE, timm or Hugging Face ViTMAE model.

    Raises:
      UserError: not such a model, or one that models here cannot be.
    """
    file = find_weights(path)
    stored, arguments = read_tensors(file)
    # Beside a file of another name may lie the description of something else.
    beside = _described(file.parent) if file.name in WEIGHT_FILES else {}
    from_hub = huggingface.is_vitmae(stored)
    if from_hub and beside.get("model_type", "vit_mae") != "vit_mae":
        raise UserError(f"{file.parent}: a {beside['model_type']} model, not ViTMAE")
    named = huggingface.to_mae_names(stored, str(file)) if from_hub else stored
    if "patch_embed.proj.weight" not in named:
        raise UserError(
            f"{file}: none of its {len(stored)} weights is named as in MAE, timm's "
            "VisionTransformer or Hugging Face's ViTMAE"
        )
    left = tuple(name for name in named if name.startswith("head."))
    named = {name: value for name, value in named.items() if name not in left}
    tensors = dict(named)
    side = take_grid_side(tensors, "pos_embed", str(file))
    encoder, patch_size = _encoder(tensors, given, beside, str(file))
    decoder = _decoder(tensors, given, beside, side, str(file))
    names = [name for name, size in SIZES.items() if size == encoder]
    if not names:
        raise UserError(
            f"{file}: no named size is {encoder.width} wide, {encoder.depth} deep, with "
            f"{encoder.num_heads} heads and {encoder.mlp_dim} hidden units; add it to "
            "rsfm_jax/models/sizes.py (or give --heads)"
        )
    normalize = beside.get("norm_pix_loss", arguments.get("norm_pix_loss", True))
    return Source(
        file=file,
        from_hub=from_hub,
        stored=stored,
        named=named,
        tensors=tensors,
        size_name=names[0],
        layout=Layout(encoder, patch_size, decoder),
        image_size=side * patch_size,
        mean=_three(given.mean or beside.get("mean", MEAN), "mean", file),
        std=_three(given.std or beside.get("std", STD), "deviation", file),
        normalize_targets=bool(normalize),
        left=left,
    )


def _three(values: Any, what: str, file: Path) -> tuple[float, ...]:
    if len(values) != 3 or what == "deviation" and min(values) <= 0:
        raise UserError(f"{file}: {what} {list(values)}; give --mean and --std, three numbers each")
    return tuple(values)


def _described(folder: Path) -> dict[str, Any]:
    """What the JSON files of a downloaded folder say, under one name each."""
    config = _read_json(folder / "config.json")
    processor = _read_json(folder / "preprocessor_config.json")
    timm = config.get("pretrained_cfg", {})
    found = {
        "model_type": config.get("model_type"),
        "heads": config.get("num_attention_heads", config.get("model_args", {}).get("num_heads")),
        "decoder_heads": config.get("decoder_num_attention_heads"),
        "norm_pix_loss": config.get("norm_pix_loss"),
        "mean": processor.get("image_mean", timm.get("mean")),
        "std": processor.get("image_std", timm.get("std")),
    }
    return {key: value for key, value in found.items() if value is not None}


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a JSON object")
    return content


def _encoder(
    tensors: dict[str, np.ndarray], given: Given, beside: dict[str, Any], source: str
) -> tuple[ViTSize, int]:
    """(the encoder's size, its patch size)."""
    patch = _shape(tensors, "patch_embed.proj.weight", 4, source)
    if patch[1] != 3 or patch[2] != patch[3]:
        raise UserError(
            f"{source}: patch_embed.proj.weight is {patch}; expected 3 bands and square patches"
        )
    heads = given.heads or beside.get("heads") or HEADS.get(patch[0])
    return _size(tensors, "blocks", patch[0], heads, "--heads", source), patch[2]


def _decoder(
    tensors: dict[str, np.ndarray], given: Given, beside: dict[str, Any], side: int, source: str
) -> ViTSize | None:
    """The decoder's size; None where the file has no decoder. Takes its position table out."""
    if not any(name.startswith(("decoder_", "mask_token")) for name in tensors):
        return None
    if take_grid_side(tensors, "decoder_pos_embed", source) != side:
        raise UserError(f"{source}: decoder_pos_embed is for another grid than pos_embed")
    width = _shape(tensors, "decoder_embed.weight", 2, source)[0]
    heads = given.decoder_heads or beside.get("decoder_heads") or DECODER_HEADS
    size = _size(tensors, "decoder_blocks", width, heads, "--decoder_heads", source)
    if size.mlp_dim != 4 * width:
        raise UserError(
            f"{source}: the decoder has {size.mlp_dim} hidden units; decoders here have 4 times "
            f"their width of {width}"
        )
    return size


def _size(
    tensors: dict[str, np.ndarray],
    blocks: str,
    width: int,
    heads: int | None,
    option: str,
    source: str,
) -> ViTSize:
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(
            f"{source}: {heads or 'an unknown number of'} heads for {blocks} of width {width}; "
            f"give {option}"
        )
    numbers = {int(name.split(".")[1]) for name in tensors if name.startswith(f"{blocks}.")}
    mlp_dim = _shape(tensors, f"{blocks}.0.mlp.fc1.weight", 2, source)[0]
    return ViTSize(width=width, depth=max(numbers) + 1, num_heads=heads, mlp_dim=mlp_dim)


def _shape(
    tensors: dict[str, np.ndarray], name: str, dimensions: int, source: str
) -> tuple[int, ...]:
    if name not in tensors:
        raise UserError(f"{source}: weight {name} is missing")
    shape = tensors[name].shape
    if len(shape) != dimensions:
        raise UserError(f"{source}: weight {name} is {shape}, not of {dimensions} dimensions")
    return shape
