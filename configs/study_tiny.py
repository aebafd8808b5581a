"""A miniature of the study on real scenes: no accelerator, a quarter of an hour on one CPU core.

    python -m data_prep build image_folder --source=AID --data_dir=prepared
    python launch/study.py --config=configs/study_tiny.py:prepared/image_folder \
        --workdir=runs/study_tiny

AID is any folder with one subfolder a class. Two sizes are pretrained on 60 % of its scenes
without their labels and fine-tuned on a part or all of them with labels; the other 40 % are scored.
"""

from ml_collections import ConfigDict

from configs.study import task

STEPS = 100  # of fine-tuning
TRAIN, HELD_OUT = "train[:60%]", "train[60%:]"  # records are in an order drawn by file name


def get_config(source: str = "prepared/image_folder") -> ConfigDict:
    """2 pretrainings and 24 runs of classification; all values are ours."""
    config = ConfigDict()
    config.sizes = ("vit_micro2x4", "vit_nano4x2")
    config.fractions = (0.2, 1.0)
    config.pretrained = (True, False)
    config.seeds = (0, 1, 2)
    images = ("model.size={size}", f"data.source={source}", f"data.split={TRAIN}")

    config.pretrain = ConfigDict()
    config.pretrain.config = "configs/mae_aid_tiny.py"
    config.pretrain.overrides = (
        *images,
        "total_steps=400",
        "optimizer.warmup_steps=40",
        "eval.every_steps=0",
        f"eval.split={TRAIN}",
    )
    config.pretrain.every_seed = False

    config.tasks = ConfigDict()
    config.tasks.scenes = task(
        "configs/classify_tiny.py",
        "eval/accuracy",
        *images,
        f"total_steps={STEPS}",
        "batch_size=32",
        f"optimizer.warmup_steps={STEPS // 10}",
        "optimizer.layer_decay=1.0",  # one for both starts: random lower layers need it
        "checkpoint.every_steps=0",
        "eval.every_steps=0",
        f"eval.source={source}",
        f"eval.split={HELD_OUT}",
    )
    return config
