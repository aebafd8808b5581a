"""A tiny MAE for a small folder of scenes, minutes on two CPU cores.

    python launch/main.py --config=configs/mae_aid_tiny.py --workdir=runs/aid \
        --config.data.source=AID --config.eval.probe_source=AID

The experiment of docs/results.md (`python -m benchmarks.aid_probe`) runs this config.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """The quickstart's model on real images of about 150 px; all values are ours."""
    config = quickstart.get_config()
    config.total_steps = 1000
    config.model.mask_ratio = 0.75
    config.model.normalize_targets = True
    config.optimizer.warmup_steps = 100
    config.data.source = "data/aid"
    config.data.crop_scale = (0.2, 1.0)
    config.eval.every_steps = 500
    config.eval.source = ""
    config.eval.split = "train"
    config.eval.center_share = 1.0
    config.eval.probe_source = ""
    config.eval.probe_split = "train"
    return config
