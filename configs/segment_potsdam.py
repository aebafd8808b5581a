"""ISPRS Potsdam with UPerNet, starting from a pretrained encoder; the size is the variant.

    python -m data_prep build potsdam --source=RAW --data_dir=data
    python launch/main.py --config=configs/segment_potsdam.py:vit_l12x4 --workdir=runs/potsdam \
        --config.init_from=runs/mae_605m --config.eval.source=RAW

Trains on crops and evaluates on the 14 whole tiles of the raw download. The five classes of
RSP, RVSA and S5, where clutter does not count, unless `:vit_l12x4,6` asks for mmsegmentation's
six: then build with --classes=6.
"""

from ml_collections import ConfigDict

from configs import segment_recipe
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.segmentation import POTSDAM_5, POTSDAM_6

PROTOCOLS = {"5": POTSDAM_5, "6": POTSDAM_6}


def get_config(variant: str = "vit_b12x1") -> ConfigDict:
    """Variants are SIZE or SIZE,CLASSES, such as vit_g12x4,6."""
    size, _, classes = variant.partition(",")
    classes = classes or "5"
    if classes not in PROTOCOLS:
        raise UserError(f"segment_potsdam.py:{variant}: Potsdam has 5 or 6 classes")
    config = segment_recipe.get_config(size, PROTOCOLS[classes])
    config.data.source = f"data/potsdam/RGB_no_boundary_{classes}"
    config.eval.source = "data/raw/potsdam"
    config.eval.split = "test"
    return config
