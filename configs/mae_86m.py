"""MAE pretraining of the 86M parallel ViT (vit_b12x1) on MillionAID, as arXiv 2304.05215.

    python launch/main.py --config=configs/mae_86m.py --workdir=runs/mae_86m
"""

from ml_collections import ConfigDict

from configs import mae_recipe


def get_config() -> ConfigDict:
    """The paper's recipe at this size."""
    return mae_recipe.get_config("vit_b12x1")
