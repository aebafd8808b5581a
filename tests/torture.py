"""Kills runs at random moments and at bad ones; what they end with must not show it.

    python -m tests.torture [--kills=20] [--processes=1|2] [--seed=0]

Each kill is SIGKILL: at a random moment, while a checkpoint is written, or during an evaluation;
with two processes it takes either of them. The same command then starts again, until the run
ends. Its metrics, the last value of every step, and every array of its last checkpoint have to
be bit for bit those of a run that nobody touched.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from rsfm_jax.training.checkpoints import find_checkpoint, read_weights
from tests.conftest import ROOT
from tests.toy_main import write_images

TIMINGS = ("images_per_second", "data_wait", "seconds_left")
MOMENTS = ("any", "writing", "evaluating")
STEPS_PER_KILL, BYTES_A_LINE = 20, 250


def command(workdir: Path, images: Path, steps: int) -> list[str]:
    return [
        *(sys.executable, "-m", "tests.toy_main", "--config=tests/toy_main.py"),
        *(f"--workdir={workdir}", f"--config.data.source={images}"),
        *(f"--config.total_steps={steps}", "--config.step_seconds=0.01"),
        *("--config.checkpoint.every_steps=5", "--config.evaluation_seconds=0.2"),
    ]


def start(line: list[str], processes: int, log) -> list[subprocess.Popen]:
    """One run, of one or two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"--coordinator=localhost:{free.getsockname()[1]}"
    several = [coordinator, f"--num_processes={processes}"] if processes > 1 else []
    return [
        subprocess.Popen(
            line + several + ([f"--process_id={number}"] if several else []),
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
            stdout=log,
            stderr=log,
        )
        for number in range(processes)
    ]


def wait(run: list[subprocess.Popen], seconds: float = 300) -> list[int]:
    """Exit statuses; whoever outlives the others for long is killed, as a scheduler does."""
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in run):
        failed = [process.returncode for process in run if process.returncode]
        if failed:
            deadline = min(deadline, time.monotonic() + 20)
        if time.monotonic() > deadline:
            for process in run:
                process.kill()
        time.sleep(0.05)
    return [process.returncode for process in run]


def has_come(moment: str, workdir: Path) -> bool:
    if moment == "writing":
        return any(workdir.glob("checkpoints/*.orbax-checkpoint-tmp"))
    if moment == "evaluating":
        return (workdir / "evaluating").exists()
    return True


def kill_once(run: list[subprocess.Popen], workdir: Path, rng: random.Random) -> str | None:
    """Kills one process of the run; tells at which moment, None where the run was faster."""
    moment = rng.choice(MOMENTS)
    (workdir / "evaluating").unlink(missing_ok=True)
    metrics = workdir / "metrics.jsonl"
    until = size(metrics) + rng.randrange(1, STEPS_PER_KILL) * BYTES_A_LINE
    while size(metrics) < until or not has_come(moment, workdir):
        if any(process.poll() is not None for process in run):
            return None
        time.sleep(0.005)
    time.sleep(rng.random() * (0.3 if moment == "any" else 0.02))
    victim = rng.choice(run)
    if victim.poll() is not None:
        return None
    victim.send_signal(signal.SIGKILL)
    return moment


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def lines(workdir: Path) -> list[str]:
    file = workdir / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def last_values(workdir: Path) -> dict[int, dict]:
    values: dict[int, dict] = {}
    for line in map(json.loads, lines(workdir)):
        values.setdefault(line["step"], {}).update(line)
    return {
        step: {key: value for key, value in line.items() if key not in TIMINGS}
        for step, line in values.items()
    }


def compare(torn: Path, whole: Path, steps: int) -> None:
    """Raises AssertionError at the first difference."""
    found, expected = last_values(torn), last_values(whole)
    assert found.keys() == expected.keys() and set(expected) == set(range(steps + 1))
    for step, values in expected.items():
        assert found[step] == values, (step, found[step], values)
    first, second = (read_weights(find_checkpoint(workdir)) for workdir in (torn, whole))
    for name in first["params"]:
        np.testing.assert_array_equal(first["params"][name], second["params"][name])
    np.testing.assert_array_equal(first["batch_stats"]["mean"], second["batch_stats"]["mean"])


def torture(folder: Path, kills: int, processes: int, seed: int) -> Counter:
    """Returns how many kills met which moment."""
    rng, met, steps = random.Random(seed), Counter(), max(40, STEPS_PER_KILL * kills)
    images = write_images(folder / "images")
    with (folder / "log").open("w") as log:
        whole = start(command(folder / "whole", images, steps), processes, log)
        assert wait(whole) == [0] * processes, (folder / "log").read_text()[-3000:]
        line = command(folder / "torn", images, steps)
        (folder / "torn").mkdir()
        while True:
            run = start(line, processes, log)
            if met.total() < kills:
                moment = kill_once(run, folder / "torn", rng)
                met.update([moment] if moment else [])
            statuses = wait(run)
            if statuses == [0] * processes:
                break
            assert -signal.SIGKILL in statuses, (statuses, (folder / "log").read_text()[-3000:])
    compare(folder / "torn", folder / "whole", steps)
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        met = torture(Path(folder), options.kills, options.processes, options.seed)
    print(f"{met.total()} kills {dict(met)}: nothing lost, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
