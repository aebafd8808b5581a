"""Rotated detection on DIOR-R, images of 800 px, from an MAE's weights.

    python -m data_prep build dior_r --source=DIOR --data_dir=data
    python launch/main.py --config=configs/detect_dior_r.py:vit_l12x4 \
        --workdir=runs/detect_dior_r --config.init_from=runs/mae_605m

Sizes: vit_b12x1 (when none is named), vit_l12x4, vit_h12x4, vit_g12x4. Origins as in detect_recipe.
"""

from ml_collections import ConfigDict

from configs import detect_recipe
from rsfm_jax.data.formats import dior

IMAGES = 11_725  # of train and val


def get_config(size: str = "vit_b12x1") -> ConfigDict:
    """12 epochs, the rate a tenth after 8 and 11 [MTP], [RVSA]."""
    config = detect_recipe.get_config(size)
    config.total_steps = 12 * (IMAGES // config.batch_size)
    config.optimizer.milestones = (8 / 12, 11 / 12)

    config.data.source = "data/dior_r"
    config.data.split = "train+val"
    config.data.classes = dior.CLASSES
    config.data.image_size = 800
    config.data.quarter_turn = 0.5  # [RVSA]

    config.checkpoint.every_steps = IMAGES // config.batch_size
    config.eval.every_steps = 4 * (IMAGES // config.batch_size)
    config.eval.split = "test"
    config.eval.protocol = "dior_r"
    config.eval.tile_overlap = 0
    return config
