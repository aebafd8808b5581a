"""What every task reads of `config.model` and `config.data` to build its encoder."""

from typing import Any

import jax.numpy as jnp

from rsfm_jax.errors import UserError
from rsfm_jax.models.attention import resolve_implementation
from rsfm_jax.models.sizes import vit_size
from rsfm_jax.models.vit import ViTConfig
from rsfm_jax.models.vitdet import ViTDetConfig
from rsfm_jax.training.validate import AT_LEAST_1, RATE, TEXT, Rule

RULES: dict[str, Rule] = {
    "model.size": TEXT,
    "model.patch_size": AT_LEAST_1,
    "model.drop_path": RATE,
    "model.dtype": (lambda x: x in ("float32", "bfloat16"), "float32 or bfloat16"),
    "model.remat": TEXT,
    "model.attention": TEXT,
    "data.image_size": AT_LEAST_1,
    "data.mean": (lambda x: len(x) == 3, "three numbers, one a band"),
    "data.std": (lambda x: len(x) == 3 and min(x) > 0, "three positive numbers, one a band"),
}

# What the windowed backbone of detection and segmentation reads beyond that.
VITDET_RULES: dict[str, Rule] = {
    "model.window": AT_LEAST_1,
    "model.pretrained_image_size": AT_LEAST_1,
}


def encoder_config(config: Any, platform: str) -> ViTConfig:
    """The encoder for devices of `platform`.

    Raises:
      UserError: an unknown size, remat policy or attention, or an image that patches do not
        divide.
    """
    model = config.model
    patch_grid(config, "data.image_size")
    return ViTConfig(
        size=vit_size(model.size),
        patch_size=model.patch_size,
        drop_path=model.drop_path,
        remat=model.remat,
        attention=resolve_implementation(model.attention, platform),
        dtype=jnp.dtype(model.dtype),
    )


def vitdet_config(config: Any, platform: str) -> ViTDetConfig:
    """The windowed backbone for square images of `config.data.image_size`; raises as above."""
    return ViTDetConfig(
        encoder=encoder_config(config, platform),
        grid=patch_grid(config, "data.image_size"),
        window=config.model.window,
        pretrained_grid=patch_grid(config, "model.pretrained_image_size"),
    )


def patch_grid(config: Any, key: str) -> tuple[int, int]:
    """(rows, columns) of patches of a square image whose side in pixels `config.KEY` gives."""
    section, name = key.split(".")
    side, patch_size = config[section][name], config.model.patch_size
    if side % patch_size:
        raise UserError(
            f"config.{key}={side} is not a multiple of config.model.patch_size={patch_size}"
        )
    return side // patch_size, side // patch_size


def fill_colour(config: Any) -> tuple[int, int, int]:
    """The RGB beyond an image's edges: normalising makes it about zero."""
    return tuple(round(255 * mean) for mean in config.data.mean)


def image_contract(config: Any) -> dict[str, Any]:
    """How images must look; a task's `contract` adds what else its weights mean."""
    return {
        "bands": ["red", "green", "blue"],
        "unit": "uint8",
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        "image_size": config.data.image_size,
        "patch_size": config.model.patch_size,
    }
