"""Keys that every task reads; recipes and experiments replace values."""

from ml_collections import ConfigDict


def get_config(task: str, size: str) -> ConfigDict:
    """A run of `task` with an encoder of `size` (`rsfm_jax/models/sizes.py`)."""
    config = ConfigDict()
    config.task = task
    config.seed = 0
    config.batch_size = 1  # global
    config.accumulate_steps = 1  # parts that a batch is computed in
    config.total_steps = 1
    config.init_from = ""  # a work folder or checkpoint whose weights to start from
    config.nonfinite_limit = 10  # skipped steps in a row that end the run
    config.nonfinite_rollbacks = 0  # instead, goes back to the last checkpoint, with later batches
    config.log_every_steps = 50  # this and the other every_steps: 0 leaves it to the end

    config.model = ConfigDict()
    config.model.size = size
    config.model.patch_size = 16  # the paper's, by its parameter count
    config.model.drop_path = 0.0
    config.model.frozen = ()  # parts that keep their weights, such as ("encoder",)
    config.model.dtype = "bfloat16"  # compute; masters are float32
    config.model.remat = "none"  # none, dots or full
    config.model.attention = "auto"  # auto, xla, cudnn (GPUs) or pallas (TPUs)

    config.optimizer = ConfigDict()
    config.optimizer.base_lr = 1e-4  # times batch_size / base_batch_size
    config.optimizer.base_batch_size = 256
    config.optimizer.schedule = "cosine"  # cosine, poly or step
    config.optimizer.milestones = ()  # of `step`: shares of total_steps
    config.optimizer.betas = (0.9, 0.999)
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup_steps = 0
    config.optimizer.clip_norm = 1.0
    config.optimizer.layer_decay = 1.0  # 1: all layers learn at one rate
    config.optimizer.average_decay = 0.0  # of a moving average of the weights; 0 keeps none
    config.optimizer.moment_dtype = "float32"  # bfloat16 saves 2 bytes a parameter

    config.mesh = ConfigDict()
    config.mesh.data = 1
    config.mesh.fsdp = -1  # -1 takes the devices left over
    config.mesh.model = 1

    config.data = ConfigDict()
    config.data.source = "synthetic"  # a TFDS directory, a folder of images, or synthetic
    config.data.split = "train"
    config.data.fraction = 1.0
    config.data.image_size = 224
    config.data.mean = (0.485, 0.456, 0.406)  # ImageNet's, red green blue
    config.data.std = (0.229, 0.224, 0.225)
    config.data.statistics = ""  # a stats_SPLIT.json of data_prep that replaces mean and std
    config.data.threads = 0  # read threads in each process; 0 takes one a core
    config.data.workers = 0  # read processes; 0 reads in the training process
    config.data.max_bad_fraction = 0.01

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000
    config.checkpoint.keep_last = 3
    config.checkpoint.keep_every = 0  # multiples kept for ever, of those saved; 0 for none

    config.eval = ConfigDict()
    config.eval.every_steps = 0
    config.eval.source = ""  # "" takes that of training
    config.eval.split = "val"
    config.eval.batch_size = 1
    return config
