"""Does detection learn from real boxes, and does MAE pretraining help it?

    python -m benchmarks.detect_real --data=DATA --workdir=runs/detect_real [--part=PART]

DATA holds real samples in their raw layouts: `dota_vhr10/` (DOTA), `dior_r_vhr10/` (DIOR-R), and
`scenes/{aid,rsscn7}` without labels. Parts, all unless named:

* overfit: a tiny Oriented R-CNN memorises each of the two sets;
* pretraining: an encoder pretrained on the scenes against one from scratch, both fine-tuned on half
  of the images of `dota_vhr10` and scored on the other half, five seeds;
* synthetic: drawn scenes of 512 px, trained on 2,048 and scored on 256 others, from an encoder that
  `configs/quickstart.py` pretrains on drawn scenes, in patches of 16 and views of 128 px.

Prints the tables of docs/results.md. Finished runs are kept in WORKDIR, so that an interrupted
experiment goes on. With JAX_COMPILATION_CACHE_DIR set, equal runs compile once.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.aid_probe import interval
from benchmarks.experiment import STARTS, Part, command, main, pretrain, run
from configs import detect_tiny, quickstart
from rsfm_jax.data.formats import dior, dota

SEEDS = 5


def prepare(name: str, raw: Path, folder: Path, *options: str) -> Path:
    """The prepared data set NAME below `folder`, built unless it is there."""
    if not (folder / name).exists():
        source = (f"--source={raw}", f"--data_dir={folder}")
        command("data_prep", "build", name, *source, *options)
    return folder / name


def tiny_config(source: Path, classes: tuple[str, ...], raw: Path, split: str) -> Any:
    """`configs/detect_tiny.py` on airliners of some 90 pixels, scored on raw whole images."""
    config = detect_tiny.get_config()
    config.log_every_steps = 10
    config.checkpoint.every_steps = 0
    config.checkpoint.keep_last = 1
    config.optimizer.warmup_steps = 50
    config.model.channels = 32
    config.model.roi_hidden = 256
    config.model.anchor_scale = 6.0
    config.model.proposals_per_level = config.model.proposals = 128
    config.model.max_detections = 100
    config.data.source, config.data.classes = str(source), classes
    config.data.near_objects = 0.5
    config.data.kept_share = 0.6
    config.data.max_objects = 32
    config.eval.source, config.eval.split = str(raw), split
    config.eval.every_steps = 0
    config.eval.protocol = "dior_r" if classes == dior.CLASSES else "dota_v1"
    return config


def overfit(data: Path, workdir: Path) -> str:
    """AP50 on the very images that were trained on."""
    lines = [
        "| images | steps | mAP50 | mAP50:95 | CPU minutes |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, raw, classes, options in (
        ("dota", "dota_vhr10", dota.CLASSES["1.0"], ("--version=1.0",)),
        ("dior_r", "dior_r_vhr10", dior.CLASSES, ()),
    ):
        prepared = prepare(name, data / raw, workdir / "prepared", *options)
        config = tiny_config(prepared, classes, data / raw, "train")
        config.model.patch_size = 16
        config.model.pretrained_image_size = 256
        config.total_steps = 800
        config.data.image_size = 256
        config.data.scale_range = (0.5, 0.5)
        # What is to be memorised stays as it is.
        config.data.horizontal_flip = config.data.vertical_flip = config.data.quarter_turn = 0.0
        config.eval.scales = (0.5,)
        config.eval.tile_overlap = 96
        scores = run(config, workdir / "overfit" / raw)
        lines.append(
            f"| {raw}, train | {config.total_steps} | {scores['eval/mAP50']:.3f} | "
            f"{scores['eval/mAP50:95']:.3f} | {scores['cpu_minutes']:.1f} |"
        )
    return "\n".join(lines)


def link_halves(raw: Path, folder: Path, seed: int) -> Path:
    """A DOTA folder whose splits `train` and `val` are links to the halves of RAW's images."""
    files = sorted((raw / "images").iterdir())
    shuffled = np.random.default_rng(seed).permutation(np.array(files, object))
    half = len(files) // 2
    for split, part in (("train", shuffled[:half]), ("val", shuffled[half:])):
        for image in part:
            label = raw / "labelTxt" / f"{image.stem}.txt"
            for file in (image, label):
                place = folder / split / file.parent.name / file.name
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.is_symlink():
                    os.symlink(file.absolute(), place)
    return folder


def pretraining(data: Path, workdir: Path) -> str:
    """Pretrained against scratch on images that neither saw, at a quarter of their resolution."""
    minutes = pretrain(data, workdir)
    scores: dict[str, list[float]] = {start: [] for start in STARTS}
    for seed in range(SEEDS):
        folder = workdir / "halves" / f"seed{seed}"
        raw = link_halves(data / "dota_vhr10", folder / "raw", seed)
        prepared = prepare("dota", raw, folder, "--version=1.0")
        for start in STARTS:
            config = tiny_config(prepared, dota.CLASSES["1.0"], raw, "val")
            config.seed = seed
            config.total_steps = 800
            config.init_from = str(workdir / "mae") if start == "pretrained" else ""
            config.data.image_size = 64
            config.data.scale_range = (0.2, 0.3)  # a plane is some 22 pixels long
            config.eval.scales = (0.25,)
            config.eval.tile_overlap = 32
            result = run(config, workdir / "vhr10" / f"seed{seed}" / start)
            scores[start].append(result["eval/AP50/plane"])
            print(f"seed {seed}, {start}: AP50 {scores[start][-1]:.3f}", flush=True)
    ours, scratch = (scores[start] for start in STARTS)
    gains = [a - b for a, b in zip(ours, scratch, strict=True)]
    lines = [
        "| pretrained, AP50 of planes | scratch | gain |",
        "| --- | --- | --- |",
        f"| {interval(ours)} | {interval(scratch)} | {interval(gains)} |",
        f"\n{SEEDS} seeds. Pretraining: {minutes:.1f} CPU minutes.",
    ]
    return "\n".join(lines)


def synthetic(data: Path, workdir: Path) -> str:
    """AP50 on drawn scenes that were not trained on."""
    options = ("--scenes=2048", "--size=512")
    folder = workdir / "prepared" / "synthetic"
    if not folder.exists():
        command("data_prep", "build", "synthetic", f"--data_dir={folder.parent}", *options)
    mae = quickstart.get_config()
    mae.model.patch_size = 16
    mae.data.image_size = 128
    mae.data.crop_scale = (0.04, 0.25)
    mae.optimizer.base_lr = 0.006  # 1.5e-3 at batch 64
    mae.eval.every_steps = mae.total_steps
    minutes = run(mae, workdir / "drawn_mae")["cpu_minutes"]
    config = tiny_config(folder, dota.CLASSES["2.0"], folder, "val")
    config.init_from = str(workdir / "drawn_mae")
    config.total_steps = 5700
    config.checkpoint.every_steps = 500
    config.optimizer.warmup_steps = 100
    config.model.patch_size = 16
    config.model.pretrained_image_size = 128
    config.model.anchor_scale = 4.0
    config.model.roi_samples = 128
    config.model.proposals_per_level = 300
    config.model.proposals = 400
    config.model.max_detections = 300
    config.data.image_size = 256
    config.data.scale_range = (0.4, 1.2)
    config.data.max_objects = 256
    config.eval.scales = (0.5, 1.0)  # a running track fits a view, and a car is 18 pixels long
    config.eval.tile_overlap = 96
    config.eval.protocol = "dota_v2"
    scores = run(config, workdir / "synthetic")
    found = {key.split("/")[-1]: value for key, value in scores.items() if "/AP50/" in key}
    lines = [
        "| drawn scenes | steps | mAP50 | CPU minutes of pretraining | CPU minutes |",
        "| --- | --- | --- | --- | --- |",
        f"| 256 held out | {config.total_steps} | {scores['eval/mAP50']:.3f} | {minutes:.1f} | "
        f"{scores['cpu_minutes']:.1f} |",
        "",
        ", ".join(f"{name} {value:.2f}" for name, value in found.items()),
    ]
    return "\n".join(lines)


PARTS: dict[str, Part] = {part.__name__: part for part in (overfit, pretraining, synthetic)}


if __name__ == "__main__":
    main(__doc__, PARTS)
