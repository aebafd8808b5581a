"""LoveDA with UPerNet, starting from a pretrained encoder; the size is the variant.

    python -m data_prep build loveda --source=RAW --data_dir=data
    python launch/main.py --config=configs/segment_loveda.py:vit_l12x4 --workdir=runs/loveda \
        --config.init_from=runs/mae_605m

Trains on train and evaluates on val. For the test server, as the published numbers: train with
--config.data.split=train+val and add --config.eval.submission_split=test, which leaves
WORKDIR/submission.zip.
"""

from ml_collections import ConfigDict

from configs import segment_recipe
from rsfm_jax.evaluation.segmentation import LOVEDA


def get_config(size: str = "vit_b12x1") -> ConfigDict:
    """The variant names the size, such as vit_g12x4."""
    config = segment_recipe.get_config(size, LOVEDA)
    config.total_steps = 80_000  # [MTP]
    config.optimizer.schedule = "cosine"  # [MTP]
    # Of the stored 1024 px. [RVSA]'s range is the same, but of images halved to 512 px first.
    config.data.scale = (0.5, 2.0)
    config.data.source = "data/loveda"
    config.eval.split = "val"
    config.eval.every_steps = 8000
    return config
