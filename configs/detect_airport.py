"""A tiny rotated detector of parked planes on drawn airports: no data, minutes on one CPU core.

    python launch/main.py --config=configs/detect_airport.py

One kind of scene and large objects: what the notebooks of colab/ can learn while one waits.
`configs/detect_tiny.py` has all kinds, and learns as slowly as that takes.
"""

from ml_collections import ConfigDict

from configs import detect_tiny


def get_config() -> ConfigDict:
    """Views of 64 px at the scenes' own resolution; all values are ours."""
    config = detect_tiny.get_config()
    config.total_steps = 400

    config.model.rpn_samples = 64
    config.model.proposals_per_level = 50
    config.model.proposals = 50
    config.model.roi_samples = 32
    config.model.max_detections = 50

    config.optimizer.base_lr = 2e-3
    config.optimizer.warmup_steps = 40

    config.data.source = "synthetic:256:airport"
    config.data.image_size = 64
    config.data.scale_range = (1.0, 1.0)  # a plane is about 25 pixels long
    config.data.near_objects = 0.8
    config.data.max_objects = 32

    config.checkpoint.every_steps = 0
    config.eval.every_steps = 0
    config.eval.source = "synthetic:16:airport"
    config.eval.scales = (1.0,)
    config.eval.tile_overlap = 32
    return config
