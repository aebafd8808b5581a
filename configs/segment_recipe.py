"""The shared recipe of semantic segmentation; segment_*.py fill in a data set.

Origins: [RVSA] and [MTP] the public fine-tuning recipes nearest to arXiv 2304.05215, which gives
none but ViTDet; [ViTDet] Li et al. 2022; [ours] no source decides it.
"""

from ml_collections import ConfigDict

from configs import common
from rsfm_jax.evaluation.segmentation import Protocol

DROP_PATH = {"vit_b12x1": 0.1}  # [RVSA]
LARGER_DROP_PATH = 0.3  # of ViT-L [MTP]


def get_config(size: str, protocol: Protocol) -> ConfigDict:
    """Every key that segmentation reads, for an encoder of `size` and a data set's classes."""
    config = common.get_config("segment", size)
    config.batch_size = 16  # 2 on each of [RVSA]'s GPUs; 8, mmsegmentation's usual number, is ours
    config.total_steps = 160_000  # [RVSA]
    config.init_from = ""  # the work folder or checkpoint of MAE pretraining

    config.model.drop_path = DROP_PATH.get(size, LARGER_DROP_PATH)
    # Windows of 14 patches [ViTDet] would pad the 32 of a crop to 42 [ours].
    config.model.window = 16
    config.model.pretrained_image_size = 224
    config.model.channels = 512  # of UPerNet [RVSA], [MTP]
    config.model.auxiliary_channels = 256  # of the FCN head [RVSA]

    config.optimizer.base_lr = 6e-5  # [RVSA], [MTP]
    config.optimizer.base_batch_size = 16
    config.optimizer.schedule = "poly"  # power 1 [RVSA]
    config.optimizer.betas = (0.9, 0.999)
    config.optimizer.weight_decay = 0.05  # [RVSA], [MTP]
    config.optimizer.warmup_steps = 1500  # [RVSA], [MTP]
    config.optimizer.clip_norm = 1.0  # [ours]
    config.optimizer.layer_decay = 0.9  # [RVSA], [MTP]

    config.data.image_size = 512  # of crops, and of the windows of evaluation [RVSA], [MTP]
    config.data.classes = protocol.classes
    config.data.colours = protocol.colours  # () takes a wheel of colours
    config.data.ignored = protocol.ignored  # mask values that neither train nor count
    config.data.scale = (0.5, 2.0)  # [RVSA], [MTP]
    config.data.max_class_share = 0.75  # of a crop [RVSA], [MTP]
    config.data.photometric = True  # [RVSA], [MTP]
    config.data.horizontal_flip = 0.5  # [RVSA], [MTP]
    config.data.vertical_flip = 0.0

    config.checkpoint.every_steps = 4000  # [ours]
    config.eval.every_steps = 16_000  # [RVSA]
    config.eval.batch_size = 16  # windows [ours]
    config.eval.stride = 384  # of windows in pixels [MTP]
    config.eval.submission_split = ""  # LoveDA: the split whose class maps are zipped
    return config
