"""The shared recipe of MAE pretraining on MillionAID; mae_*.py fill in a size.

Origins: [paper] arXiv 2304.05215; [RVSA] the public MAE recipe for MillionAID nearest to it;
[MAE] He et al. 2021 and its reference code; [ours] the paper's value is unknown and no public
recipe decides it.
"""

from ml_collections import ConfigDict

MILLION_AID_IMAGES = 990_848  # the unlabelled part, `test/`; its author's list has 990,666


def get_config(size: str) -> ConfigDict:
    """Every key that pretraining reads, with the paper's values."""
    config = ConfigDict()
    config.task = "pretrain"
    config.seed = 0
    config.batch_size = 2048  # global [RVSA]
    config.accumulate_steps = 1
    steps_per_epoch = MILLION_AID_IMAGES // config.batch_size
    config.total_steps = 400 * steps_per_epoch  # 400 epochs [paper]
    config.init_from = ""  # a work folder or checkpoint whose weights to start from
    config.nonfinite_limit = 10  # skipped steps in a row that end the run [ours]
    config.log_every_steps = 50  # this and the other every_steps: 0 leaves it to the end

    config.model = ConfigDict()
    config.model.size = size
    config.model.patch_size = 16  # [paper], by its parameter count
    config.model.mask_ratio = 0.75  # [paper]
    config.model.drop_path = 0.0  # [MAE]
    config.model.decoder_width = 512  # [MAE]
    config.model.decoder_depth = 8  # [MAE]
    config.model.decoder_heads = 16  # [MAE]
    # Off, unlike [MAE]: 196 tokens instead of 197 let cuDNN's attention train on GPUs.
    config.model.decoder_class_token = False
    config.model.normalize_targets = True  # recommended by [MAE]
    config.model.dtype = "bfloat16"  # compute; masters are float32
    config.model.remat = "none"  # none, dots or full
    config.model.attention = "auto"  # auto, xla or cudnn

    config.optimizer = ConfigDict()
    config.optimizer.base_lr = 1.5e-4  # times batch / base_batch_size [MAE], [RVSA]
    config.optimizer.base_batch_size = 256
    config.optimizer.schedule = "cosine"  # [MAE]; cosine, poly or step
    config.optimizer.milestones = ()  # of `step`: shares of total_steps
    config.optimizer.layer_decay = 1.0  # 1: all layers learn at one rate [MAE]
    config.optimizer.average_decay = 0.0  # of a moving average of the weights; 0 keeps none
    config.optimizer.betas = (0.9, 0.95)  # [MAE]
    config.optimizer.weight_decay = 0.05  # [MAE]
    config.optimizer.warmup_steps = 40 * steps_per_epoch  # 40 epochs [MAE]
    config.optimizer.clip_norm = 1.0  # [ours]: [MAE] does not clip; large bf16 runs need it
    config.optimizer.moment_dtype = "float32"  # bfloat16 saves 2 bytes a parameter

    config.mesh = ConfigDict()
    config.mesh.data = 1
    config.mesh.fsdp = -1  # -1 takes the devices left over
    config.mesh.model = 1

    config.data = ConfigDict()
    config.data.source = "data/millionaid"  # a TFDS directory, a folder of images, or synthetic
    config.data.split = "train"
    config.data.fraction = 1.0
    config.data.image_size = 224  # [RVSA]
    config.data.crop_scale = (0.2, 1.0)  # [MAE]
    config.data.horizontal_flip = 0.5  # [MAE]
    config.data.vertical_flip = 0.0  # [MAE]
    config.data.mean = (0.485, 0.456, 0.406)  # ImageNet's, red green blue [MAE]
    config.data.std = (0.229, 0.224, 0.225)
    config.data.statistics = ""  # a stats_SPLIT.json of data_prep that replaces mean and std
    config.data.threads = 0  # read threads in each process; 0 takes one a core
    config.data.workers = 0  # read processes; 0 reads in the training process
    config.data.max_bad_fraction = 0.01

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 2 * steps_per_epoch  # 966 [ours]
    config.checkpoint.keep_last = 3
    # Multiples kept for ever, of those that every_steps saves; 0 for none.
    config.checkpoint.keep_every = 100 * steps_per_epoch

    config.eval = ConfigDict()
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
