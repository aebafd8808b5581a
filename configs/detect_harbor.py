"""A tiny rotated detector of boats, piers and cranes in drawn harbours: no data, minutes on a CPU.

    python launch/main.py --config=configs/detect_harbor.py

One kind of scene: what the notebooks of colab/ can learn while one waits. The scenes of
`configs/detect_tiny.py` are of all kinds, which takes far more steps than that.
"""

from ml_collections import ConfigDict

from configs import detect_tiny


def get_config() -> ConfigDict:
    """Views of 64 px at twice the scenes' resolution; all values are ours."""
    config = detect_tiny.get_config()
    config.total_steps = 800

    config.model.rpn_samples = 64
    config.model.proposals_per_level = 100
    config.model.proposals = 100
    config.model.roi_samples = 64
    config.model.max_detections = 100

    config.optimizer.base_lr = 3e-3
    config.optimizer.warmup_steps = 40

    config.data.source = "synthetic:256:harbor"
    config.data.image_size = 64
    config.data.scale_range = (2.0, 2.0)  # a boat is 10 to 40 pixels long
    config.data.near_objects = 0.6
    config.data.max_objects = 32

    config.checkpoint.every_steps = 0
    config.eval.every_steps = 0
    config.eval.source = "synthetic:8:harbor"
    config.eval.tile_overlap = 32
    return config
