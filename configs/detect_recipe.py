"""The shared recipe of rotated detection; detect_*.py fill in a data set.

The paper (arXiv 2304.05215) fine-tunes through ViTDet and gives no more of it in public. Origins:
[MTP] and [RVSA] the public recipes nearest to it; [ViTDet] Li et al. 2022 and detectron2's configs;
[mmrotate] `oriented_rcnn_r50_fpn_1x_dota_le90`; [ours] none of them decides it.
"""

from ml_collections import ConfigDict

from configs import common

# [RVSA] for ViT-B, [MTP] for the L size; [ours] beyond, towards 0.5 of [ViTDet]'s largest.
DROP_PATH = {"vit_b12x1": 0.15, "vit_l12x4": 0.3, "vit_h12x4": 0.4, "vit_g12x4": 0.5}


def get_config(size: str) -> ConfigDict:
    """Every key that detection reads."""
    config = common.get_config("detect", size)
    # Between the 4 of [MTP] and the 64 of [ViTDet], which have the same learning rate.
    config.batch_size = 16

    config.model.drop_path = DROP_PATH.get(size, 0.1)
    config.model.remat = "full"  # [ours]: activations of 1024 px images are large
    config.model.window = 14  # patches [ViTDet]
    config.model.pretrained_image_size = 224  # whose position embedding is stretched
    config.model.channels = 256  # of the pyramid [ViTDet]
    config.model.anchor_scale = 8.0  # strides a side [mmrotate]
    config.model.rpn_samples = 256  # anchors an image that train [mmrotate]
    config.model.proposals_per_level = 2000  # [mmrotate]
    config.model.proposals = 2000  # [mmrotate]
    config.model.roi_hidden = 1024  # [mmrotate]
    config.model.roi_samples = 512  # regions an image that train [mmrotate]
    config.model.extend_factor = (1.0, 1.0)  # of pooled regions [MTP]; (1.4, 1.2) in [RVSA]
    config.model.score_threshold = 0.05  # [mmrotate]
    config.model.max_detections = 2000  # [mmrotate]

    config.optimizer.base_lr = 1e-4  # [MTP], [RVSA], [ViTDet]
    config.optimizer.base_batch_size = config.batch_size
    config.optimizer.schedule = "step"  # [MTP]
    config.optimizer.weight_decay = 0.05  # [MTP], [RVSA]
    config.optimizer.warmup_steps = 500  # [MTP]
    config.optimizer.clip_norm = 35.0  # [mmrotate]
    config.optimizer.layer_decay = 0.75  # [RVSA] for 12 layers; [MTP] has 0.9 for 24

    config.data.classes = ()  # their names in the order of the labels
    config.data.scale_range = (1.0, 1.0)  # of the factor that images are resized by [MTP]
    config.data.rotation = 0.0  # chance of a turn by any angle; 0.5 in ViTP
    config.data.upright_classes = ()  # with one of these only quarter turns
    config.data.near_objects = 0.0  # chance of a view around an object, not anywhere
    config.data.kept_share = 0.7  # of an object's area that a view must hold [mmrotate]
    config.data.keep_difficult = True  # [mmrotate]
    config.data.max_objects = 1024  # an image can hold; more are counted and left out
    config.data.horizontal_flip = 0.5  # both: each of none, h, v, diagonal 0.25 [MTP]
    config.data.vertical_flip = 0.5
    config.data.quarter_turn = 0.0  # 0.5 in [RVSA]

    config.eval.protocol = "dota_v2"  # dota_v1, dota_v1_5, dota_v2 or dior_r
    config.eval.tile_overlap = 200  # pixels of neighbouring tiles, of data.image_size [mmrotate]
    config.eval.scales = (1.0,)  # factors that images are resized by, all merged [MTP]
    config.eval.min_score_shown = 0.3  # of what pictures show
    config.eval.batch_size = 8
    return config
