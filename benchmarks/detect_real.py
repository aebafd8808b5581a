"""Does detection learn from real boxes, and does MAE pretraining help it?

    python -m benchmarks.detect_real --data=DATA --workdir=runs/detect_real [--part=PART]

DATA holds real samples in their raw layouts: `dota_vhr10/` and `dota/` (DOTA), `dior_r_vhr10/`
(DIOR-R), and `scenes/{aid,rsscn7}`, `hrsc2016`, `unlabelled`, whose labels are not used. Parts, all
unless named:

* overfit: a tiny Oriented R-CNN memorises each of the two sets;
* pretraining: an encoder pretrained on scenes and on tiles of other images, in patches of 16,
  against one from random weights, both fine-tuned on half of the images of `dota_vhr10` and scored
  on the other half, five seeds;
* small_patches: the same in patches of 8 at half of that resolution, from the scenes alone;
* synthetic: drawn scenes of 512 px, trained on 2,048 and scored on 256 others, from an encoder that
  `configs/quickstart.py` pretrains on drawn scenes, in patches of 16 and views of 128 px.

Prints the tables of docs/results.md. Finished runs are kept in WORKDIR, so that an interrupted
experiment goes on. With JAX_COMPILATION_CACHE_DIR set, equal runs compile once.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.aid_probe import interval
from benchmarks.experiment import STARTS, Part, command, link, main, pretrain, run
from configs import detect_tiny, mae_aid_tiny, quickstart
from rsfm_jax.data.formats import dior, dota

SEEDS = 5
TILE = 180  # pixels a side, of images for pretraining
TILE_STEP = 120  # about, between tiles


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


def half_resolution(config: Any) -> None:
    """Views of 256 px in patches of 16, at half the resolution: a plane is some 45 pixels."""
    config.model.patch_size = 16
    config.data.image_size = 256
    config.eval.scales = (0.5,)
    config.eval.tile_overlap = 96


def coarse_patches(mae: Any) -> None:
    """Pretraining for the above: patches of 16 in views of 128 px."""
    mae.model.patch_size = 16
    mae.data.image_size = 128
    mae.optimizer.base_lr = 0.006  # 1.5e-3 at batch 64


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
        half_resolution(config)
        config.model.pretrained_image_size = 256
        config.total_steps = 800
        config.data.scale_range = (0.5, 0.5)
        # What is to be memorised stays as it is.
        config.data.horizontal_flip = config.data.vertical_flip = config.data.quarter_turn = 0.0
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


def compare_starts(
    data: Path, workdir: Path, name: str, mae: Path, adapt: Callable[[Any], None]
) -> str:
    """AP50 of planes on the other half of `dota_vhr10`, from a pretrained encoder and from scratch.

    `adapt` finishes the config; `name` is the folder of the runs.
    """
    scores: dict[str, list[float]] = {start: [] for start in STARTS}
    for seed in range(SEEDS):
        folder = workdir / "halves" / f"seed{seed}"
        raw = link_halves(data / "dota_vhr10", folder / "raw", seed)
        prepared = prepare("dota", raw, folder, "--version=1.0")
        for start in STARTS:
            config = tiny_config(prepared, dota.CLASSES["1.0"], raw, "val")
            config.seed = seed
            config.init_from = str(mae) if start == "pretrained" else ""
            adapt(config)
            result = run(config, workdir / name / f"seed{seed}" / start)
            scores[start].append(result["eval/AP50/plane"])
            print(f"seed {seed}, {start}: AP50 {scores[start][-1]:.3f}", flush=True)
    ours, scratch = (scores[start] for start in STARTS)
    gains = [a - b for a, b in zip(ours, scratch, strict=True)]
    lines = [
        "| pretrained, AP50 of planes | scratch | gain |",
        "| --- | --- | --- |",
        f"| {interval(ours)} | {interval(scratch)} | {interval(gains)} |",
        f"\n{SEEDS} seeds.",
    ]
    return "\n".join(lines)


def cut_tiles(data: Path, folder: Path) -> list[Path]:
    """Tiles of 180 px of images at half resolution, none of which `dota_vhr10` holds."""
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        sources = (
            "dior_r_vhr10/JPEGImages/*",
            "unlabelled/*",
            "dota/images/*",
            "hrsc2016/**/*.jpg",
        )
        files = [file for pattern in sources for file in sorted(data.glob(pattern))]
        count = 0
        for file in files:
            whole = cv2.imread(str(file))
            image = cv2.resize(whole, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            starts = (
                np.linspace(0, side - TILE, max(1, round(side / TILE_STEP))).astype(int)
                for side in image.shape[:2]
            )
            for y, x in itertools.product(*starts):
                tile = image[y : y + TILE, x : x + TILE]
                cv2.imwrite(str(unfinished / f"{count:05d}.png"), tile)
                count += 1
        unfinished.rename(folder)
    return sorted(folder.iterdir())


def pretraining(data: Path, workdir: Path) -> str:
    """Pretrained against scratch on images that neither saw, in patches of 16."""
    scenes = sorted((data / "scenes").rglob("*.jpg"))
    tiles = cut_tiles(data, workdir / "tiles")
    link(workdir / "corpus", scenes + tiles * round(len(scenes) / len(tiles)))  # half and half
    mae = mae_aid_tiny.get_config()
    coarse_patches(mae)
    mae.total_steps = 1500
    mae.data.source = str(workdir / "corpus")
    mae.data.crop_scale = (0.4, 1.0)
    mae.eval.every_steps = 0
    minutes = run(mae, workdir / "mae16")["cpu_minutes"]

    def adapt(config: Any) -> None:
        half_resolution(config)
        config.model.pretrained_image_size = 128
        config.total_steps = 400
        config.data.scale_range = (0.4, 0.6)

    table = compare_starts(data, workdir, "vhr10_patches16", workdir / "mae16", adapt)
    return f"{table} Pretraining: {minutes:.1f} CPU minutes."


def small_patches(data: Path, workdir: Path) -> str:
    """The same in patches of 8, at a quarter of the images' resolution."""
    minutes = pretrain(data, workdir)

    def adapt(config: Any) -> None:
        config.total_steps = 800
        config.data.image_size = 64
        config.data.scale_range = (0.2, 0.3)  # a plane is some 22 pixels long
        config.eval.scales = (0.25,)
        config.eval.tile_overlap = 32

    table = compare_starts(data, workdir, "vhr10", workdir / "mae", adapt)
    return f"{table} Pretraining: {minutes:.1f} CPU minutes."


def synthetic(data: Path, workdir: Path) -> str:
    """AP50 on drawn scenes that were not trained on."""
    options = ("--scenes=2048", "--size=512")
    folder = workdir / "prepared" / "synthetic"
    if not folder.exists():
        command("data_prep", "build", "synthetic", f"--data_dir={folder.parent}", *options)
    mae = quickstart.get_config()
    coarse_patches(mae)
    mae.data.crop_scale = (0.04, 0.25)
    mae.eval.every_steps = mae.total_steps
    minutes = run(mae, workdir / "drawn_mae")["cpu_minutes"]
    config = tiny_config(folder, dota.CLASSES["2.0"], folder, "test")
    config.init_from = str(workdir / "drawn_mae")
    config.total_steps = 7500
    config.checkpoint.every_steps = 500
    config.optimizer.warmup_steps = 100
    half_resolution(config)
    config.model.pretrained_image_size = 128
    config.model.anchor_scale = 4.0
    config.model.roi_samples = 128
    config.model.proposals_per_level = 300
    config.model.proposals = 400
    config.model.max_detections = 300
    config.data.scale_range = (0.45, 1.1)
    config.data.max_objects = 256
    config.eval.scales = (0.5, 1.0)  # a running track fits a view, and a car is 18 pixels long
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


PARTS: dict[str, Part] = {
    part.__name__: part for part in (overfit, pretraining, small_patches, synthetic)
}


if __name__ == "__main__":
    main(__doc__, PARTS)
