"""What fine-tuning and the linear probe share; classify_*.py fill in the rest.

Origins: [MAE] He et al. 2021, its appendix A.1 and reference code (`FINETUNE.md`); [ours] our
choice for sets of some thousand scenes, where MAE's batch of 1,024 would be a few steps an epoch.
Of MAE's augmentation, RandAugment, random erasing, mixup and cutmix are left out.
"""

from ml_collections import ConfigDict

from configs import common

IMAGES = 5_000  # half of AID's, the usual training share
BATCH_SIZE = 256  # [ours]
STEPS_PER_EPOCH = IMAGES // BATCH_SIZE


def get_config(size: str) -> ConfigDict:
    """Every key that classification reads."""
    config = common.get_config("classify", size)
    config.batch_size = BATCH_SIZE

    config.model.label_smoothing = 0.0
    config.optimizer.base_batch_size = 256
    config.optimizer.schedule = "cosine"  # [MAE]
    config.optimizer.clip_norm = 1.0  # [ours]: [MAE] does not clip; large bf16 runs need it

    config.data.source = "data/aid"  # one subfolder a class, below train and val
    config.data.classes = ()  # their names in order; () takes those of the source
    config.data.crop_scale = (0.08, 1.0)  # [MAE]
    config.data.horizontal_flip = 0.5  # [MAE]
    config.data.vertical_flip = 0.5  # [ours]: scenes seen from above

    config.eval.every_steps = 10 * STEPS_PER_EPOCH
    config.eval.split = "val"
    config.eval.images = 10_000  # at most, as many of each class; they stay in memory
    config.eval.center_share = 1.0  # of the shorter side, the square that evaluation looks at
    config.eval.batch_size = 256
    return config
