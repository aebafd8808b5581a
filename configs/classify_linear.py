"""Linear probe: trains a linear layer on a frozen encoder's features of labelled scenes.

    python launch/main.py --config=configs/classify_linear.py:vit_b12x1 --workdir=runs/aid_probe \
        --config.init_from=runs/mae_86m --config.data.source=AID

Sizes: vit_b12x1 (default), vit_l12x4, vit_h12x4, vit_g12x4 (`rsfm_jax/models/sizes.py`).
"""

from ml_collections import ConfigDict

from configs import classify_recipe


def get_config(size: str = "vit_b12x1") -> ConfigDict:
    """[MAE]'s recipe, with Adam in the place of LARS, which batches of 16,384 need."""
    config = classify_recipe.get_config(size)
    config.total_steps = 90 * classify_recipe.STEPS_PER_EPOCH  # [MAE]
    config.model.frozen = ("encoder",)
    config.optimizer.base_lr = 1e-3  # [ours]: LARS's 0.1 means something else
    config.optimizer.weight_decay = 0.0  # [MAE]
    config.optimizer.warmup_steps = 10 * classify_recipe.STEPS_PER_EPOCH  # [MAE]
    return config
