"""Does segmentation learn from real masks, and does MAE pretraining help it?

    python -m benchmarks.segment_real --data=DATA --workdir=runs/segment_real [--part=PART]

DATA holds real samples: `roads/training/{images,groundtruth}` (grey levels), `loveda/` (raw
layout), `potsdam/{img_dir,ann_dir}` (0 = boundary), `scenes/{aid,rsscn7}` and `unlabelled/`.
Parts, all unless named:

* overfit: a tiny UPerNet memorises a few pairs of each of the three sets;
* pretraining: an encoder pretrained on the scenes against one from scratch, both fine-tuned on
  10, 50 and 100 % of 20 road pairs and scored on the 10 others, five seeds;
* synthetic: Potsdam and LoveDA in their raw layouts, from `data_prep` to a submission.

Prints the tables of docs/results.md. Finished runs are kept in WORKDIR, so that an interrupted
experiment goes on.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.aid_probe import interval
from benchmarks.experiment import STARTS, Part, command, link, main, pretrain, run
from configs import segment_tiny
from rsfm_jax.data.formats import IGNORE, loveda, potsdam
from rsfm_jax.files import write_atomically

ROADS = ("background", "road")
FRACTIONS = (0.1, 0.5, 1.0)
SEEDS = range(1, 6)  # learning rate and augmentation were chosen on seed 0's split
HELD_OUT = 10  # of the 30 road pairs

Pairs = Iterator[tuple[str, np.ndarray, np.ndarray]]  # stem, image [H, W, 3], mask [H, W]


def road_pairs(data: Path) -> Pairs:
    """Images of 400 px and what is lighter than mid grey in their masks."""
    for image in sorted((data / "roads/training/images").iterdir()):
        mask = cv2.imread(str(data / "roads/training/groundtruth" / image.name), 0)
        yield image.stem, cv2.imread(str(image)), (mask > 127).astype(np.uint8)


def loveda_pairs(data: Path) -> Pairs:
    """The upper left 512 px of each image: of its 1024, those with houses, roads and water."""
    for image in sorted((data / "loveda/Train/Rural/images_png").iterdir()):
        values = cv2.imread(str(image.parents[1] / "masks_png" / image.name), 0)
        corner = slice(512), slice(512)
        mask = loveda.decode_mask(values[corner], image.name)
        yield image.stem, cv2.imread(str(image))[corner], mask


def potsdam_pairs(data: Path) -> Pairs:
    """Crops of 512 px; their masks hold 1 to 6, and 0 for boundaries."""
    for image in sorted((data / "potsdam/img_dir").iterdir()):
        values = cv2.imread(str(data / "potsdam/ann_dir" / f"{image.stem}.png"), 0)
        mask = np.where((values > 0) & (values < 6), values - 1, IGNORE).astype(np.uint8)
        yield image.stem, cv2.imread(str(image)), mask


def _save(pixels: np.ndarray, path: Path) -> None:
    cv2.imwrite(str(path), pixels)


def write_pairs(folder: Path, pairs: Pairs, shrink: int) -> None:
    """FOLDER/images and FOLDER/masks, both sides divided by `shrink`."""
    for stem, image, mask in pairs:
        size = (mask.shape[1] // shrink, mask.shape[0] // shrink)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        for part, pixels in (("images", image), ("masks", mask)):
            write_atomically(
                folder / part / f"{stem}.png",
                partial(_save, pixels),
            )


def tiny_config(source: Path, classes: tuple[str, ...]) -> Any:
    """A UPerNet of 32 channels on the encoder of `configs/mae_aid_tiny.py`."""
    config = segment_tiny.get_config()
    config.batch_size = 8
    config.model.channels = 32
    config.model.auxiliary_channels = 16
    config.optimizer.base_batch_size = 8
    config.optimizer.base_lr = 2e-3
    config.optimizer.schedule = "step"
    config.optimizer.milestones = (0.8,)
    config.optimizer.warmup_steps = 20
    config.optimizer.layer_decay = 1.0
    config.data.source = str(source)
    config.data.classes = classes
    config.data.scale = (0.75, 1.5)
    config.data.photometric = False
    config.eval.source = ""
    config.eval.stride = 64
    config.eval.every_steps = 0
    config.checkpoint.every_steps = 0
    config.checkpoint.keep_last = 1
    return config


def overfit(data: Path, workdir: Path) -> str:
    """mIoU on the very pairs that were trained on."""
    # reader, shrink, pairs, classes, steps, largest share of a class in a crop: LoveDA's houses
    # and roads are 2 % of its pixels, which its crops must not miss.
    sets: dict[str, tuple[Callable[[Path], Pairs], int, int, tuple[str, ...], int, float]] = {
        "roads": (road_pairs, 2, 2, ROADS, 800, 1.0),
        "loveda": (loveda_pairs, 2, 2, loveda.CLASSES, 4000, 0.75),
        "potsdam": (potsdam_pairs, 4, 1, potsdam.CLASSES_5, 800, 1.0),
    }
    lines = [
        "| pairs | px | steps | mIoU | OA | CPU minutes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, (read, shrink, count, classes, steps, share) in sets.items():
        folder = workdir / "pairs" / name
        if not folder.exists():
            pairs = list(read(data))[:count]
            write_pairs(folder, iter(pairs), shrink)
        config = tiny_config(folder, classes)
        config.total_steps = steps
        config.data.scale = (1.0, 1.0)
        config.data.max_class_share = share
        config.data.vertical_flip = config.data.horizontal_flip = 0.0
        config.eval.split = "train"
        scores = run(config, workdir / "overfit" / name)
        side = cv2.imread(str(next((folder / "masks").iterdir())), 0).shape[0]
        lines.append(
            f"| {count} of {name} | {side} | {steps} | {scores['eval/miou']:.3f} | "
            f"{scores['eval/oa']:.3f} | {scores['cpu_minutes']:.1f} |"
        )
    return "\n".join(lines)


def pretraining(data: Path, workdir: Path) -> str:
    """Pretrained against scratch on unseen road images, by share of the labelled ones."""
    pairs = workdir / "pairs" / "all_roads"
    if not pairs.exists():
        write_pairs(pairs, road_pairs(data), shrink=2)
    minutes = pretrain(data, workdir)
    stems = sorted(file.stem for file in (pairs / "images").iterdir())
    scores: dict[tuple[float, str], list[float]] = {}
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(stems)
        split = workdir / "splits" / f"seed{seed}"
        for name, part in (("val", order[:HELD_OUT]), ("train", order[HELD_OUT:])):
            for kind in ("images", "masks"):
                link(split / name / kind, [pairs / kind / f"{stem}.png" for stem in sorted(part)])
        for fraction in FRACTIONS:
            for start in STARTS:
                config = tiny_config(split, ROADS)
                config.seed = seed
                config.total_steps = 250
                config.data.fraction = fraction
                config.init_from = str(workdir / "mae") if start == "pretrained" else ""
                place = workdir / "roads" / f"seed{seed}" / f"{fraction}" / start
                result = run(config, place)
                scores.setdefault((fraction, start), []).append(result["eval/miou"])
                print(
                    f"seed {seed}, {fraction:.0%}, {start}: {result['eval/miou']:.3f}", flush=True
                )
    lines = [
        "| labelled pairs | pretrained, mIoU | scratch, mIoU | gain |",
        "| --- | --- | --- | --- |",
    ]
    for fraction in FRACTIONS:
        ours, scratch = (scores[fraction, start] for start in STARTS)
        gains = [a - b for a, b in zip(ours, scratch, strict=True)]
        count = round(fraction * (len(stems) - HELD_OUT))
        lines.append(f"| {count} | {interval(ours)} | {interval(scratch)} | {interval(gains)} |")
    return "\n".join([*lines, f"\nPretraining: {minutes:.1f} CPU minutes."])


def synthetic(data: Path, workdir: Path) -> str:
    """Both data sets end to end by the commands that users type."""
    raw, prepared = workdir / "raw", workdir / "prepared"
    small = [
        *("--config.batch_size=8", "--config.optimizer.base_batch_size=8"),
        *("--config.total_steps=150", "--config.optimizer.warmup_steps=15"),
        *("--config.optimizer.base_lr=1e-3", "--config.optimizer.layer_decay=1.0"),
        *("--config.model.patch_size=8", "--config.model.dtype=float32"),
        *("--config.model.window=8", "--config.model.pretrained_image_size=64"),
        *("--config.model.channels=32", "--config.model.auxiliary_channels=16"),
        *("--config.model.drop_path=0.0", "--config.data.image_size=64"),
        *("--config.eval.stride=64", "--config.eval.every_steps=0"),
    ]
    source = f"--source={raw}"
    command("data_prep", "build", "synthetic", source, f"--data_dir={prepared}", "--scenes=8")
    lines = ["| data set | tiles | mIoU | mF1 | OA |", "| --- | --- | --- | --- | --- |"]
    for name, tiles, extra in (
        ("potsdam", "14 of test", [f"--config.eval.source={raw / 'potsdam'}"]),
        ("loveda", "2 of val", ["--config.eval.submission_split=test"]),
    ):
        command("data_prep", "build", name, f"--source={raw / name}", f"--data_dir={prepared}")
        place = workdir / f"synthetic_{name}"
        source = f"--config.data.source={prepared / name}"
        config = f"--config=configs/segment_{name}.py:vit_nano4x2"
        command("launch.main", config, f"--workdir={place}", source, *small, *extra)
        last = json.loads((place / "metrics.jsonl").read_text().splitlines()[-1])
        scores = " | ".join(f"{last[f'eval/{key}']:.3f}" for key in ("miou", "mf1", "oa"))
        lines.append(f"| {name} | {tiles} | {scores} |")
    return "\n".join(lines)


PARTS: dict[str, Part] = {part.__name__: part for part in (overfit, pretraining, synthetic)}


if __name__ == "__main__":
    main(__doc__, PARTS)
