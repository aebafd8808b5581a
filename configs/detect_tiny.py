"""A tiny rotated detector on drawn scenes: no data, some minutes on two CPU cores.

    python launch/main.py --config=configs/detect_tiny.py
    python launch/main.py --config=configs/detect_tiny.py --workdir=runs/detect_from_mae \
        --config.init_from=runs/quickstart

The second starts from the encoder that configs/quickstart.py has pretrained; from random weights
the first finds next to nothing (docs/results.md).
"""

from ml_collections import ConfigDict

from configs import detect_recipe
from rsfm_jax.data.formats import dota


def get_config() -> ConfigDict:
    """Everything small; all values are ours."""
    config = detect_recipe.get_config("vit_nano4x2")
    config.batch_size = 8
    config.total_steps = 600
    config.log_every_steps = 10

    config.model.patch_size = 8
    config.model.drop_path = 0.0
    config.model.dtype = "float32"
    config.model.remat = "none"
    config.model.window = 8
    config.model.pretrained_image_size = 64
    config.model.channels = 32
    config.model.anchor_scale = 4.0
    config.model.rpn_samples = 128
    config.model.proposals_per_level = 200
    config.model.proposals = 200
    config.model.roi_hidden = 256
    config.model.roi_samples = 64
    config.model.max_detections = 300

    config.optimizer.base_lr = 1e-3
    config.optimizer.base_batch_size = config.batch_size
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 10.0
    config.optimizer.layer_decay = 1.0

    config.data.source = "synthetic:2048"
    config.data.classes = dota.CLASSES["2.0"]
    config.data.image_size = 128
    config.data.scale_range = (1.5, 2.0)  # a car is 5 pixels long in these scenes
    config.data.near_objects = 0.5
    config.data.max_objects = 256  # cars of a full car park
    config.data.quarter_turn = 0.5

    config.checkpoint.every_steps = 200
    config.eval.every_steps = 300
    config.eval.source = "synthetic:64"
    config.eval.scales = (2.0,)
    config.eval.tile_overlap = 64
    config.eval.batch_size = 8
    return config
