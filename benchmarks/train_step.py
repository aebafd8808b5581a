"""Our train step against torch.compile on an accelerator: bfloat16, the same losses.

    python -m benchmarks.train_step --output=race.json
    python -m benchmarks.train_step --model=vit_nano4x2:2 --steps=1 --rounds=2  # on a CPU

Torch's side is the same model (`torch_mae`) under autocast with fused AdamW, its attention by
cuDNN or flash kernels, compiled with and without CUDA graphs. Both keep float32 masters, draw no
flips, do not clip and decode without the class token. By default the three large sizes on one
H200. Prints a table of images a second, and MFU by the analytic count where the chip is known.
"""

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.race import Contestant, alternate, check_losses, ratio, record
from rsfm_jax.files import write_text
from rsfm_jax.sharding.hardware import find_chip

# Size and images a step that fit an H200 together with two more contestants.
MODELS = ("vit_l12x4:128", "vit_h12x4:64", "vit_g12x4:32")
WARMUP = 5
TOLERANCE = 1e-3  # of losses, in bfloat16
TORCH = {"torch.compile": "default", "torch.compile, CUDA graphs": "reduce-overhead"}
# Memory is shared between the contestants, so nobody may take it ahead.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
HEADER = (
    "| model, images | | images / s | MFU | times torch.compile | GiB | start s | first loss | "
    "last loss |\n|---|---|---|---|---|---|---|---|---|"
)


def race(size: str, batch_size: int, steps: int, rounds: int) -> list[Contestant]:
    """Runs one model's race to its end."""
    settings = {
        "size": size,
        "batch_size": batch_size,
        "image_size": 224,
        "model": {"dtype": "bfloat16", "decoder_class_token": False},
        "warmup": WARMUP,
        "steps": WARMUP + rounds * steps,
        "threads": 1,
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_text(Path(folder) / "race.json", json.dumps(settings))
        commands = {"rsfm_jax": ["-m", "benchmarks.contestant_jax", folder]} | {
            name: ["-m", "benchmarks.contestant_torch", folder, "--bfloat16", f"--compile={mode}"]
            for name, mode in TORCH.items()
        }
        contestants = []
        for name, command in commands.items():
            start = time.perf_counter()
            contestant = stack.enter_context(Contestant(name, command, ENVIRONMENT))
            contestant.about["start_seconds"] = time.perf_counter() - start
            contestants.append(contestant)
        alternate(contestants, rounds, steps)
    check_losses(contestants, TOLERANCE)
    return contestants


def rows(model: str, contestants: list[Contestant]) -> list[str]:
    """Markdown rows of one model."""
    batch_size = int(model.partition(":")[2])
    ours, base = contestants[:2]
    chip = find_chip(ours.about["device"])
    lines = []
    for one in contestants:
        seconds = one.median("seconds")
        mfu = f"{ours.about['flops'] / seconds / chip.flops:.1%}" if chip else "-"
        cells = [
            model,
            f"{one.name} ({one.about['versions']})",
            f"{batch_size / seconds:.1f}",
            mfu,
            f"{ratio(one, base, 'seconds'):.2f}",
            f"{one.blocks[-1]['memory'] / 2**30:.1f}",
            f"{one.about['start_seconds']:.0f}",
            f"{one.losses[0]:.4f}",
            f"{one.losses[-1]:.4f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Races every model and prints the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="SIZE:IMAGES, repeatedly")
    parser.add_argument("--steps", type=int, default=20, help="in a block")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a JSON file of every block")
    options = parser.parse_args()
    print(HEADER)
    records: dict[str, Any] = {}
    for model in options.model or MODELS:
        size, _, images = model.partition(":")
        contestants = race(size, int(images), options.steps, options.rounds)
        print("\n".join(rows(model, contestants)), flush=True)
        records[model] = list(map(record, contestants))
        if options.output:
            write_text(options.output, json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
