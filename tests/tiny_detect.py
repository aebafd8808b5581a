"""The smallest detector that has every part, for the tests and the processes they start."""

from ml_collections import ConfigDict

from configs import detect_tiny
from tests import tiny


def get_config() -> ConfigDict:
    """On the encoder of `tests.tiny`: 64 px views of drawn scenes, four steps."""
    config = detect_tiny.get_config()
    config.batch_size = 8
    config.total_steps = 4
    config.log_every_steps = 1
    config.model.size = tiny.get_config().model.size
    config.model.drop_path = 0.1
    config.model.window = 2
    config.model.pretrained_image_size = 32
    config.model.channels = 16
    config.model.rpn_samples = 32
    config.model.proposals_per_level = 16
    config.model.proposals = 16
    config.model.roi_hidden = 16
    config.model.roi_samples = 16
    config.model.score_threshold = 0.01
    config.model.max_detections = 8
    config.optimizer.warmup_steps = 1
    config.optimizer.layer_decay = 0.75
    config.data.source = "synthetic:16"
    config.data.image_size = 64
    config.data.near_objects = 0.5
    config.data.max_objects = 16
    config.checkpoint.every_steps = 2
    config.eval.every_steps = 0
    config.eval.source = "synthetic:2"
    config.eval.scales = (1.0,)
    config.eval.tile_overlap = 0
    return config
