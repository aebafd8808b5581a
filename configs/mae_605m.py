"""MAE pretraining of the 605M parallel ViT (vit_l12x4) on MillionAID, as arXiv 2304.05215.

    python launch/main.py --config=configs/mae_605m.py --workdir=runs/mae_605m
"""

from ml_collections import ConfigDict

from configs import mae_recipe


def get_config() -> ConfigDict:
    """The paper's recipe at this size."""
    return mae_recipe.get_config("vit_l12x4")
