"""Rotated detection on DOTA v2.0 in patches of 1024 px, from an MAE's weights.

    python -m data_prep build dota --source=DOTA --data_dir=data
    python launch/main.py --config=configs/detect_dota_v2.py:vit_l12x4 \
        --workdir=runs/detect_dota_v2 --config.init_from=runs/mae_605m --config.eval.source=DOTA

DOTA holds {train,val,test}/images and their labelTxt as downloaded: training takes the prepared
patches, evaluation the whole images. Sizes: vit_b12x1 (when none is named), vit_l12x4, vit_h12x4,
vit_g12x4. Origins as in detect_recipe.
"""

from ml_collections import ConfigDict

from configs import detect_recipe
from rsfm_jax.data.formats import dota

PATCHES = 17_550  # with objects, of train and val [MTP]


def get_config(size: str = "vit_b12x1") -> ConfigDict:
    """40 epochs, the rate a tenth after 24, 32 and 38 [MTP]."""
    config = detect_recipe.get_config(size)
    # Of both splits, as published. Train alone, 1,830 of their 2,423 images, takes fewer a pass:
    # these steps see it some 53 times.
    config.total_steps = 40 * (PATCHES // config.batch_size)
    config.optimizer.milestones = (24 / 40, 32 / 40, 38 / 40)

    config.data.source = "data/dota"
    config.data.split = "train"  # train+val for the test server [MTP]
    config.data.classes = dota.CLASSES["2.0"]
    config.data.image_size = 1024
    # Round or nearly square; ViTP turns them by quarters.
    config.data.upright_classes = ("storage-tank", "roundabout", "airport")

    config.checkpoint.every_steps = PATCHES // config.batch_size
    config.eval.every_steps = 10 * (PATCHES // config.batch_size)
    return config
