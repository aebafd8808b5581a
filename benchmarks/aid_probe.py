"""Does a few minutes of MAE pretraining beat no pretraining, on real scenes?

    python -m benchmarks.aid_probe --images=AID --workdir=runs/aid_probe [--seeds=5]

For each seed: splits the labelled folder AID (one subfolder a class) into class-balanced
halves, pretrains `configs/mae_aid_tiny.py` on the first half without its labels, fits probes on
the first half's frozen features and scores them on the second half, which neither pretraining
nor probe has seen. The same probes on image statistics and on the same network at random
initialisation are the baselines. Prints the table of docs/results.md; keeps each seed's
figures in WORKDIR, so that an interrupted experiment goes on.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from scipy import stats
from sklearn.model_selection import train_test_split

from configs import mae_aid_tiny
from rsfm_jax.data.loader import load_all
from rsfm_jax.data.sources import FolderSource
from rsfm_jax.data.transforms import resize_center_crop
from rsfm_jax.evaluation.features import image_statistics, map_batches
from rsfm_jax.evaluation.probes import split_accuracies
from rsfm_jax.files import write_text
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.tasks.pretrain import Pretrain
from rsfm_jax.tasks.pretrain_evaluation import encode
from rsfm_jax.training import loop
from rsfm_jax.training.checkpoints import find_checkpoint, load_variables
from rsfm_jax.training.program import build_program

FEATURES = ("pretrained", "random init", "image statistics")


def link_halves(images: Path, folder: Path, seed: int) -> dict[str, Path]:
    """Folders `pretrain` and `held_out` of links to the two halves of every class."""
    source = FolderSource(images)
    files = [Path(source.name(i)).absolute() for i in range(len(source))]
    halves = train_test_split(files, test_size=0.5, random_state=seed, stratify=source.labels)
    folders = {name: folder / name for name in ("pretrain", "held_out")}
    for half, target in zip(halves, folders.values(), strict=True):
        for file in half:
            link = target / file.relative_to(images.absolute())
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file)
    return folders


def run_seed(images: Path, workdir: Path, seed: int) -> dict[str, dict[str, float]]:
    """Accuracies of every kind of features, and the minutes that pretraining took."""
    folders = link_halves(images, workdir / "halves", seed)
    config = mae_aid_tiny.get_config()
    config.seed = seed
    config.data.source = str(folders["pretrain"])
    config.eval.source = str(folders["held_out"])
    mesh = make_mesh(config)
    task = Pretrain(config, mesh)
    start = time.perf_counter()
    loop.train(task, config, mesh, workdir)
    minutes = (time.perf_counter() - start) / 60

    crop = partial(resize_center_crop, size=config.data.image_size)
    (train, train_labels), (test, test_labels) = (
        load_all(FolderSource(folder), crop) for folder in folders.values()
    )
    assert train_labels is not None and test_labels is not None  # one subfolder a class
    program = build_program(task, config, mesh)
    apply = jax.jit(partial(encode, config, task.mae.encoder))

    def features(params: dict, pixels: np.ndarray) -> np.ndarray:
        run = partial(apply, params)
        return map_batches(run, {"image": pixels}, config.eval.batch_size, mesh)

    trained = load_variables(find_checkpoint(workdir), program.abstract_state)
    extractors: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "pretrained": partial(features, trained["params"]),
        "random init": partial(features, program.init().params),
        "image statistics": image_statistics,
    }
    scores = {
        name: split_accuracies(extract(train), train_labels, extract(test), test_labels, seed)
        for name, extract in extractors.items()
    }
    return scores | {"pretraining": {"minutes": minutes}}


def interval(values: list[float]) -> str:
    """Mean and 95 % interval of the mean (Student's t), in points."""
    points = 100 * np.array(values)
    half = stats.t.ppf(0.975, len(points) - 1) * points.std(ddof=1) / np.sqrt(len(points))
    return f"{points.mean():.1f} ± {half:.1f}"


def table(results: list[dict[str, dict[str, float]]]) -> str:
    """Markdown: accuracies, and the paired gain of pretraining over each baseline."""
    lines = [
        "| features | kNN-20 accuracy | linear accuracy | pretrained minus these, linear |",
        "| --- | --- | --- | --- |",
    ]
    for name in FEATURES:
        knn, linear = ([r[name][probe] for r in results] for probe in ("knn", "linear"))
        gains = [r["pretrained"]["linear"] - r[name]["linear"] for r in results]
        gain = "" if name == "pretrained" else interval(gains)
        lines.append(f"| {name} | {interval(knn)} | {interval(linear)} | {gain} |")
    minutes = [r["pretraining"]["minutes"] for r in results]
    lines.append(f"\n{len(results)} seeds, {max(minutes):.1f} minutes of pretraining at most.")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    results = []
    for seed in range(arguments.seeds):
        workdir = arguments.workdir / f"seed{seed}"
        workdir.mkdir(parents=True, exist_ok=True)
        done = workdir / "accuracies.json"
        if not done.exists():
            write_text(done, json.dumps(run_seed(arguments.images, workdir, seed), indent=1))
        results.append(json.loads(done.read_text()))
        print(f"seed {seed}: {results[-1]}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
