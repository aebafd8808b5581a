"""A tiny classifier of drawn scenes: no data, a minute or two on two CPU cores.

    python launch/main.py --config=configs/classify_tiny.py
    python launch/main.py --config=configs/classify_tiny.py:linear --workdir=runs/linear_tiny \
        --config.init_from=runs/quickstart

Look at figures/confusion.png in the work folder afterwards. The second command probes the
encoder of `configs/quickstart.py`; the first starts from it with the same `--config.init_from`.
"""

from ml_collections import ConfigDict

from configs import classify_finetune, classify_linear

RECIPES = {"finetune": classify_finetune, "linear": classify_linear}


def get_config(recipe: str = "finetune") -> ConfigDict:
    """The model and the images of the quickstart; all values are ours."""
    config = RECIPES[recipe].get_config("vit_nano4x2")
    config.batch_size = 64
    config.total_steps = 300
    config.log_every_steps = 10

    config.model.patch_size = 8
    config.model.drop_path = 0.0
    config.model.dtype = "float32"

    config.optimizer.base_lr = {"finetune": 4e-3, "linear": 4e-2}[recipe]  # 1e-3, 1e-2 at batch 64
    config.optimizer.warmup_steps = 30

    config.data.source = "synthetic:2048"
    config.data.image_size = 64
    config.data.crop_scale = (0.3, 1.0)

    config.checkpoint.every_steps = 100
    config.eval.every_steps = 100
    config.eval.source = "synthetic:512"
    config.eval.batch_size = 64
    return config
