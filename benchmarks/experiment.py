"""What the experiments on real samples share: runs that are done once, and their command line."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from configs import mae_aid_tiny
from rsfm_jax.files import write_text
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.tasks import make_task
from rsfm_jax.training import loop

STARTS = ("pretrained", "scratch")

Part = Callable[[Path, Path], str]  # folders of data and work -> a Markdown table


def run(config: Any, workdir: Path) -> dict[str, float]:
    """Trains, or finds it done: the last evaluation, `minutes` and `cpu_minutes`."""
    done = workdir / "result.json"
    if not done.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        mesh = make_mesh(config)
        start, cpu = time.perf_counter(), time.process_time()
        loop.train(make_task(config, mesh), config, mesh, workdir)
        spent = {
            "minutes": (time.perf_counter() - start) / 60,
            "cpu_minutes": (time.process_time() - cpu) / 60,
        }
        last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
        write_text(done, json.dumps(last | spent, indent=1))
    return json.loads(done.read_text())


def link(target: Path, files: list[Path]) -> None:
    """TARGET/NUMBER_NAME for every file, as links."""
    target.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        place = target / f"{number:04d}_{file.name}"
        if not place.is_symlink():
            os.symlink(file.absolute(), place)


def pretrain(data: Path, workdir: Path) -> float:
    """Pretrains `configs/mae_aid_tiny.py` on scenes without labels; gives the CPU minutes."""
    scenes = [*(data / "scenes").rglob("*.jpg"), *(data / "unlabelled").glob("*.*")]
    link(workdir / "scenes", sorted(scenes))
    config = mae_aid_tiny.get_config()
    config.total_steps = 600
    config.data.source = str(workdir / "scenes")
    config.eval.every_steps = 0
    return run(config, workdir / "mae")["cpu_minutes"]


def command(module: str, *arguments: str) -> None:
    """Runs `python -m MODULE`; its failure ends this run."""
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def main(description: str, parts: Mapping[str, Part]) -> None:
    """Runs what is missing of the parts asked for and prints their tables."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--part", choices=parts, action="append")
    arguments = parser.parse_args()
    for part in arguments.part or parts:
        print(f"\n{part}\n{parts[part](arguments.data, arguments.workdir)}", flush=True)
