"""MAE pretraining of the 2.4B parallel ViT (vit_g12x4) on MillionAID, as arXiv 2304.05215.

    python launch/main.py --config=configs/mae_2p4b.py --workdir=runs/mae_2p4b
"""

from ml_collections import ConfigDict

from configs import mae_recipe


def get_config() -> ConfigDict:
    """The paper's recipe at this size."""
    return mae_recipe.get_config("vit_g12x4")
