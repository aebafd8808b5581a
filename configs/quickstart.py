"""A tiny MAE on drawn scenes: no data, a few minutes on two CPU cores.

    python launch/main.py --config=configs/quickstart.py

Look at runs/quickstart/figures/reconstruction.png and probe.png afterwards.
"""

from ml_collections import ConfigDict

from configs import mae_recipe


def get_config() -> ConfigDict:
    """Everything small; all values are ours."""
    config = mae_recipe.get_config("vit_ti6x2")
    config.batch_size = 64
    config.total_steps = 600
    config.log_every_steps = 20

    config.model.patch_size = 8
    config.model.decoder_width = 128
    config.model.decoder_depth = 2
    config.model.decoder_heads = 4
    config.model.normalize_targets = False  # the picture shows what is predicted, not a contrast
    config.model.dtype = "float32"

    config.optimizer.base_lr = 4e-3
    config.optimizer.warmup_steps = 50

    config.data.source = "synthetic:2048"
    config.data.image_size = 64
    config.data.crop_scale = (0.5, 1.0)
    config.data.vertical_flip = 0.5

    config.checkpoint.every_steps = 200
    config.checkpoint.keep_every = 0

    config.eval.every_steps = 200
    config.eval.source = "synthetic:64"
    config.eval.split = "val"
    config.eval.batch_size = 64
    config.eval.probe_source = "synthetic:512"
    config.eval.probe_split = "test"
    return config
