"""Fine-tunes a whole pretrained encoder on scenes in one subfolder a class.

    python launch/main.py --config=configs/classify_finetune.py:vit_b12x1 --workdir=runs/aid \
        --config.init_from=runs/mae_86m --config.data.source=AID

Sizes: vit_b12x1 (default), vit_l12x4, vit_h12x4, vit_g12x4 (`rsfm_jax/models/sizes.py`).
"""

from ml_collections import ConfigDict

from configs import classify_recipe

# Epochs, base learning rate, layer decay and drop path of [MAE]'s ViT-B, ViT-L and ViT-H, which
# are as wide as the paper's three smaller models; the largest takes those of ViT-H [ours].
BY_SIZE = {
    "vit_b12x1": (100, 5e-4, 0.65, 0.1),
    "vit_l12x4": (50, 1e-3, 0.75, 0.2),
    "vit_h12x4": (50, 1e-3, 0.75, 0.3),
    "vit_g12x4": (50, 1e-3, 0.75, 0.3),
}


def get_config(size: str = "vit_b12x1") -> ConfigDict:
    """[MAE]'s recipe; a size without a published one takes that of ViT-B."""
    epochs, base_lr, layer_decay, drop_path = BY_SIZE.get(size, BY_SIZE["vit_b12x1"])
    config = classify_recipe.get_config(size)
    config.total_steps = epochs * classify_recipe.STEPS_PER_EPOCH

    config.model.drop_path = drop_path
    config.model.label_smoothing = 0.1  # [MAE]

    config.optimizer.base_lr = base_lr
    config.optimizer.layer_decay = layer_decay
    config.optimizer.betas = (0.9, 0.999)  # [MAE]
    config.optimizer.weight_decay = 0.05  # [MAE]
    config.optimizer.warmup_steps = 5 * classify_recipe.STEPS_PER_EPOCH  # [MAE]
    return config
