"""Land cover of drawn scenes with a tiny UPerNet: no data, a few minutes on two CPU cores.

    python launch/main.py --config=configs/segment_tiny.py

Look at runs/segment_tiny/figures/tiles.png and confusion.png afterwards. With
`--config.init_from=runs/quickstart` it starts from the quickstart's encoder.
"""

from ml_collections import ConfigDict

from configs import segment_recipe
from rsfm_jax.data.synthetic import COVER
from rsfm_jax.evaluation.segmentation import Protocol


def get_config() -> ConfigDict:
    """Everything small; all values are ours."""
    config = segment_recipe.get_config("vit_nano4x2", Protocol(COVER, ()))
    config.batch_size = 16
    config.total_steps = 400
    config.log_every_steps = 10

    config.model.patch_size = 8
    config.model.drop_path = 0.0
    config.model.dtype = "float32"
    config.model.window = 8
    config.model.pretrained_image_size = 64
    config.model.channels = 64
    config.model.auxiliary_channels = 32

    config.optimizer.base_lr = 1e-3
    config.optimizer.warmup_steps = 30

    config.data.source = "synthetic:512"
    config.data.image_size = 64
    config.data.vertical_flip = 0.5

    config.checkpoint.every_steps = 200
    config.eval.every_steps = 200
    config.eval.source = "synthetic:64"
    config.eval.split = "val"
    config.eval.stride = 48
    return config
