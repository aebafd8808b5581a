"""A tiny MAE on drawn scenes: no data, a few minutes on two CPU cores.

    python launch/main.py --config=configs/quickstart.py

Look at runs/quickstart/figures/reconstruction.png and probe.png afterwards.
"""

from ml_collections import ConfigDict

from configs import mae_recipe


def get_config() -> ConfigDict:
    """Everything small; all values are ours."""
    config = mae_recipe.get_config("vit_nano4x2")
    config.batch_size = 64
    config.total_steps = 1500
    config.log_every_steps = 10

    config.model.patch_size = 8
    config.model.mask_ratio = 0.6  # 0.75 learns the same, but not in minutes
    config.model.decoder_width = 96
    config.model.decoder_depth = 2
    config.model.decoder_heads = 4
    config.model.normalize_targets = False  # the picture shows what is predicted, nothing given
    config.model.dtype = "float32"

    config.optimizer.base_lr = 0.016  # 4e-3 at batch 64
    config.optimizer.warmup_steps = 50

    config.data.source = "synthetic:2048"
    config.data.image_size = 64
    config.data.crop_scale = (0.04, 0.12)  # a house, a ship, a crossing: large enough to guess
    config.data.vertical_flip = 0.5

    config.checkpoint.every_steps = 500
    config.checkpoint.keep_every = 0

    config.eval.every_steps = 500
    config.eval.source = "synthetic:64"
    config.eval.split = "val"
    config.eval.images = 64
    config.eval.center_share = 0.28  # the side of a crop of 8 % of the area
    config.eval.batch_size = 64
    config.eval.probe_source = "synthetic:512"
    config.eval.probe_split = "test"
    return config
