"""Does MAE pretraining on one set of real scenes help to classify another, of few labels?

    python -m benchmarks.classify_real --unlabelled=AID --images=RSSCN7 --workdir=runs/classify_real

Pretrains `configs/mae_aid_tiny.py` once on the folder AID, whose labels are not read. Then, for
each seed, splits the labelled folder RSSCN7 (one subfolder a class) into class-balanced halves,
trains on one and scores on the other, through `configs/classify_tiny.py`: fine-tuned and probed,
each from the pretrained and from random weights. Prints the table of docs/results.md; what is
finished in WORKDIR is not run again.
"""

import argparse
import json
import logging
from pathlib import Path

import jax
from ml_collections import ConfigDict

from benchmarks.aid_probe import interval, link_halves
from configs import classify_tiny, mae_aid_tiny
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.tasks import make_task
from rsfm_jax.training import loop

PRETRAINING_STEPS = 600
STEPS, WARMUP, BATCH_SIZE = 120, 12, 32
ARMS = [(recipe, start) for recipe in ("finetune", "linear") for start in ("pretrained", "random")]


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains to the end, from where an earlier run was cut off."""
    workdir.mkdir(parents=True, exist_ok=True)
    mesh = make_mesh(config)
    loop.train(make_task(config, mesh), config, mesh, workdir)


def pretrain(images: Path, workdir: Path) -> None:
    """MAE on all images of a folder."""
    config = mae_aid_tiny.get_config()
    config.total_steps = PRETRAINING_STEPS
    config.data.source = str(images)
    config.eval.every_steps = 0
    train(config, workdir)


def arm_config(recipe: str, init_from: str, halves: dict[str, Path], seed: int) -> ConfigDict:
    """One cell of the table: trains on one half of the scenes, evaluates on the other."""
    config = classify_tiny.get_config(recipe)
    config.seed = seed
    config.init_from = init_from
    config.total_steps = STEPS
    config.batch_size = BATCH_SIZE
    config.optimizer.warmup_steps = WARMUP
    config.optimizer.layer_decay = 1.0  # the same for both starts: random lower layers need it
    config.data.source = str(halves["pretrain"])
    config.eval.source = str(halves["held_out"])
    config.eval.split = "train"
    config.eval.every_steps = 0
    return config


def run_seed(images: Path, workdir: Path, seed: int) -> dict[str, float]:
    """Held-out accuracy of every arm."""
    halves = link_halves(images, workdir / f"halves{seed}", seed)
    accuracies = {}
    for recipe, start in ARMS:
        init_from = str(workdir / "pretraining") if start == "pretrained" else ""
        folder = workdir / f"{recipe}-{start}-seed{seed}"
        metrics = folder / "metrics.jsonl"
        if not (metrics.exists() and '"eval/accuracy"' in metrics.read_text()):
            train(arm_config(recipe, init_from, halves, seed), folder)
        last = json.loads(metrics.read_text().splitlines()[-1])
        accuracies[f"{recipe} {start}"] = last["eval/accuracy"]
    return accuracies


def table(results: list[dict[str, float]]) -> str:
    """Markdown: accuracies by start, and the paired gain of pretraining."""
    lines = ["|  | from random weights | from MAE | gain |", "| --- | --- | --- | --- |"]
    for recipe, name in (("finetune", "fine-tuned"), ("linear", "linear probe")):
        random, pretrained = (
            [result[f"{recipe} {start}"] for result in results]
            for start in ("random", "pretrained")
        )
        gains = [after - before for before, after in zip(random, pretrained, strict=True)]
        cells = (name, interval(random), interval(pretrained), interval(gains))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unlabelled", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    workdir = arguments.workdir
    # The arms compile the same evaluations again and again.
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
    pretrain(arguments.unlabelled, workdir / "pretraining")
    results = []
    for seed in range(arguments.seeds):
        results.append(run_seed(arguments.images, workdir, seed))
        print(f"seed {seed}: {results[-1]}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
