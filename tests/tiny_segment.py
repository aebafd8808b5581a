"""The smallest segmentation run, on the encoder of `tests/tiny.py`."""

from ml_collections import ConfigDict

from configs import segment_tiny


def get_config() -> ConfigDict:
    """Four branches, two layers, 32 px crops of drawn scenes."""
    config = segment_tiny.get_config()
    config.batch_size = 8
    config.total_steps = 6
    config.log_every_steps = 1
    config.model.size = "vit_micro2x4"
    config.model.drop_path = 0.1
    config.model.window = 3
    config.model.pretrained_image_size = 32
    config.model.channels = 8
    config.model.auxiliary_channels = 8
    config.optimizer.warmup_steps = 2
    config.data.source = "synthetic:16"
    config.data.image_size = 32
    config.checkpoint.every_steps = 3
    config.eval.every_steps = 0
    config.eval.source = "synthetic:2"
    config.eval.batch_size = 8
    config.eval.stride = 32
    return config
