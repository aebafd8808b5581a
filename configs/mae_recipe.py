"""The shared recipe of MAE pretraining on MillionAID; mae_*.py fill in a size.

Origins: [paper] arXiv 2304.05215; [RVSA] the public MAE recipe for MillionAID nearest to it;
[MAE] He et al. 2021 and its reference code; [ours] the paper's value is unknown and no public
recipe decides it.
"""

from ml_collections import ConfigDict

from configs import common

MILLION_AID_IMAGES = 990_848  # the unlabelled part, `test/`; its author's list has 990,666


def get_config(size: str) -> ConfigDict:
    """Every key that pretraining reads, with the paper's values."""
    config = common.get_config("pretrain", size)
    config.batch_size = 2048  # [RVSA]
    steps_per_epoch = MILLION_AID_IMAGES // config.batch_size
    config.total_steps = 400 * steps_per_epoch  # 400 epochs [paper]

    config.model.mask_ratio = 0.75  # [paper]
    config.model.drop_path = 0.0  # [MAE]
    config.model.decoder_width = 512  # [MAE]
    config.model.decoder_depth = 8  # [MAE]
    config.model.decoder_heads = 16  # [MAE]
    # Off, unlike [MAE]: 196 tokens instead of 197 let cuDNN's attention train on GPUs.
    config.model.decoder_class_token = False
    config.model.normalize_targets = True  # recommended by [MAE]

    config.optimizer.base_lr = 1.5e-4  # [MAE], [RVSA]
    config.optimizer.base_batch_size = 256
    config.optimizer.schedule = "cosine"  # [MAE]
    config.optimizer.betas = (0.9, 0.95)  # [MAE]
    config.optimizer.weight_decay = 0.05  # [MAE]
    config.optimizer.warmup_steps = 40 * steps_per_epoch  # 40 epochs [MAE]
    config.optimizer.clip_norm = 1.0  # [ours]: [MAE] does not clip; large bf16 runs need it

    config.data.source = "data/millionaid"
    config.data.image_size = 224  # [RVSA]
    config.data.crop_scale = (0.2, 1.0)  # [MAE]
    config.data.horizontal_flip = 0.5  # [MAE]
    config.data.vertical_flip = 0.0  # [MAE]
    config.data.mean = (0.485, 0.456, 0.406)  # ImageNet's [MAE]
    config.data.std = (0.229, 0.224, 0.225)

    config.checkpoint.every_steps = 2 * steps_per_epoch  # 966 [ours]
    config.checkpoint.keep_every = 100 * steps_per_epoch

    config.eval.every_steps = 10 * steps_per_epoch
    config.eval.source = ""  # images to reconstruct; "" takes those of training
    config.eval.split = "train"
    config.eval.images = 256
    config.eval.center_share = 1.0  # of the shorter side, the square that evaluation looks at
    config.eval.batch_size = 256
    config.eval.probe_source = ""  # a labelled folder for kNN and linear probes; "" for none
    config.eval.probe_split = "train"
    config.eval.probe_images = 5000
    return config
