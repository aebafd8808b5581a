"""Crops and held-out images of the tasks on whole images, pretraining and classification."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.data.device import random_flip
from rsfm_jax.data.loader import Loader, load_all
from rsfm_jax.data.sources import Source
from rsfm_jax.data.transforms import crop_example, resize_center_crop
from rsfm_jax.tasks.loading import load_batches
from rsfm_jax.training.validate import AT_LEAST_1, CROP_SCALE, PART, SHARE, TEXT, Rule

RULES: dict[str, Rule] = {
    "data.crop_scale": CROP_SCALE,
    "data.horizontal_flip": SHARE,
    "data.vertical_flip": SHARE,
    "eval.source": TEXT,
    "eval.split": TEXT,
    "eval.images": AT_LEAST_1,
    "eval.center_share": PART,
    "eval.batch_size": AT_LEAST_1,
}

# Seed of what is random about evaluation: the same in every run, so that runs can be compared.
EVALUATION_SEED = 0


def abstract_images(config: Any) -> jax.ShapeDtypeStruct:
    """A global batch, uint8 [B, H, W, 3]."""
    size = config.data.image_size
    return jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8)


def crop_batches(config: Any, source: Source, rows: np.ndarray, start_step: int) -> Loader:
    """Random resized crops of this process's rows, with their labels, from `start_step` on."""
    data = config.data
    transform = partial(crop_example, size=data.image_size, scale=tuple(data.crop_scale))
    return load_batches(config, source, transform, rows, start_step)


def flip(config: Any, images: jax.Array, rng: jax.Array) -> jax.Array:
    """Mirrors images [B, H, W, C] with the chances that the config gives."""
    return random_flip(images, rng, config.data.horizontal_flip, config.data.vertical_flip)


def held_out(config: Any, source: Source, limit: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Central squares uint8 [N, S, S, 3] of at most `limit` examples, and their labels [N].

    As many of each class as there are where they are labelled; labels are None where not.
    """
    size, share = config.data.image_size, config.eval.center_share
    crop = partial(resize_center_crop, size=size, share=share)
    return load_all(source, crop, limit=limit, seed=EVALUATION_SEED)
