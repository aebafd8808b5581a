"""MAE pretraining of the 1.3B parallel ViT (vit_h12x4) on MillionAID, as arXiv 2304.05215.

    python launch/main.py --config=configs/mae_1p3b.py --workdir=runs/mae_1p3b
"""

from ml_collections import ConfigDict

from configs import mae_recipe


def get_config() -> ConfigDict:
    """The paper's recipe at this size."""
    return mae_recipe.get_config("vit_h12x4")
