"""The paper's study: how size and labels change results, on its four benchmarks.

    python launch/study.py --config=configs/study.py --workdir=runs/study

4 pretrainings and 96 runs that start from them; docs/study.md says how to spread them over
machines. The paper compares sizes on all labels and speaks of data efficiency without its
fractions being public, so those are ours. Values reach the cells as --config.KEY=VALUE.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Axes of the grid, and what is run at each point."""
    config = ConfigDict()
    config.sizes = ("vit_b12x1", "vit_l12x4", "vit_h12x4", "vit_g12x4")  # the paper's four
    config.fractions = (0.1, 0.5, 1.0)  # of the labelled images
    config.pretrained = (True,)  # add False for runs from scratch
    config.seeds = (0, 1)

    config.pretrain = ConfigDict()
    config.pretrain.config = "configs/mae_recipe.py:{size}"
    config.pretrain.overrides = ("data.source=data/millionaid",)
    config.pretrain.every_seed = False  # one pretraining a size serves all seeds

    config.tasks = ConfigDict()
    config.tasks.dota_v2 = task(
        "configs/detect_dota_v2.py:{size}",
        "eval/mAP50",
        "data.source=data/dota",
        "eval.source=raw/dota",  # whole images, as downloaded
    )
    config.tasks.dior_r = task(
        "configs/detect_dior_r.py:{size}", "eval/mAP50", "data.source=data/dior_r"
    )
    config.tasks.potsdam = task(
        "configs/segment_potsdam.py:{size}", "eval/mf1", "data.source=data/potsdam"
    )
    config.tasks.loveda = task(
        "configs/segment_loveda.py:{size}", "eval/miou", "data.source=data/loveda"
    )
    return config


def task(config: str, metric: str, *overrides: str) -> ConfigDict:
    """One column of the grid: the run's config, what is compared, and settings of all its runs."""
    return ConfigDict({"config": config, "metric": metric, "overrides": overrides})
