"""The smallest run that has every part: shared by the tests and the processes they start."""

from ml_collections import ConfigDict

from configs import mae_recipe


def get_config() -> ConfigDict:
    """Four branches, two layers, 32 px images: seconds on one core."""
    config = mae_recipe.get_config("vit_micro2x4")
    config.batch_size = 16
    config.total_steps = 20
    config.log_every_steps = 1
    config.model.patch_size = 8
    config.model.decoder_width = 64
    config.model.decoder_depth = 1
    config.model.decoder_heads = 4
    config.model.dtype = "float32"
    config.optimizer.base_lr = 0.02
    config.optimizer.warmup_steps = 5
    config.data.source = "synthetic:64"
    config.data.image_size = 32
    config.checkpoint.every_steps = 10
    config.checkpoint.keep_every = 0
    config.eval.every_steps = 20
    config.eval.images = 16
    config.eval.batch_size = 16
    return config
