"""Our train step against torch on CPU: same weights, images, mask noise and AdamW, float32.

    python -m benchmarks.race_torch --model=vit_b12x1 --cores=1

torch runs as it ships and with the check of its math library (MKL) undone that gives AMD's
processors slower code; that takes a C compiler, and is a row of its own. One core each by
affinity, for XLA takes as many threads as it may use cores. Needs torch and transformers.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.race import Contestant, alternate, check_losses, ratio, record
from rsfm_jax.files import write_text

WARMUP = 2
TOLERANCE = 1e-4  # of losses, in float32
INTEL = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A model to race: what differs from the recipe of pretraining."""

    batch_size: int
    decoder: dict[str, int]


ENTRANTS = {
    "vit_s12x1": Entrant(16, {"decoder_width": 256, "decoder_depth": 4, "decoder_heads": 8}),
    "vit_b12x1": Entrant(8, {}),
}


def settings(size: str, rounds: int, threads: int) -> dict[str, Any]:
    """What every contestant reads."""
    entrant = ENTRANTS[size]
    model = {"dtype": "float32", "decoder_class_token": True}  # as transformers has it
    return {
        "size": size,
        "batch_size": entrant.batch_size,
        "image_size": 224,
        "model": model | entrant.decoder,
        "warmup": WARMUP,
        "steps": WARMUP + rounds,
        "threads": threads,
    }


def undo_check(folder: Path) -> dict[str, str] | None:
    """Environment in which MKL takes any processor for Intel's; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = folder / "intel.c", folder / "intel.so"
    source.write_text(INTEL)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


def main() -> None:
    """Races and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=ENTRANTS, default="vit_b12x1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--output", type=Path, help="a JSON file of every block")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[-options.cores :]
    os.sched_setaffinity(0, cores)
    threads = {"OMP_NUM_THREADS": str(len(cores)), "JAX_PLATFORMS": "cpu"}

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        raced = settings(options.model, options.rounds, len(cores))
        write_text(folder / "race.json", json.dumps(raced))
        torch = ["-m", "benchmarks.contestant_torch", name]
        entries: dict[str, tuple[list[str], dict[str, str]]] = {
            "torch, as shipped": (torch, {}),
            "transformers, as shipped": ([*torch, "--transformers"], {}),
        }
        fast = undo_check(folder)
        if fast is None:
            print("no C compiler (cc): the rows with MKL's check undone are left out")
        else:
            entries["torch, MKL's check undone"] = (torch, fast)
            entries["transformers, MKL's check undone"] = ([*torch, "--transformers"], fast)
        ours = ["-m", "benchmarks.contestant_jax", name]
        contestants = [stack.enter_context(Contestant("rsfm_jax", ours, threads))]
        for label, (command, environment) in entries.items():
            contestants.append(
                stack.enter_context(Contestant(label, command, threads | environment))
            )
        alternate(contestants, options.rounds, steps=1)
        check_losses(contestants, TOLERANCE)
        print(table(contestants, ENTRANTS[options.model].batch_size))
        load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
        print(f"\n{options.model}, {len(cores)} cores, {options.rounds} rounds, load {load}")
        if options.output:
            records = list(map(record, contestants))
            write_text(options.output, json.dumps(records, indent=1))


def table(contestants: list[Contestant], batch_size: int) -> str:
    """Markdown: speeds, and ratios to torch as shipped, medians over rounds."""
    lines = [
        "| | images / s | to torch as shipped | by CPU seconds | GiB | first loss | last loss |",
        "|---|---|---|---|---|---|---|",
    ]
    base = contestants[1]
    for one in contestants:
        cells = [
            f"{one.name} ({one.about['versions']})",
            f"{batch_size / one.median('seconds'):.2f}",
            f"{ratio(one, base, 'seconds'):.2f}",
            f"{ratio(one, base, 'cpu_seconds'):.2f}",
            f"{one.blocks[-1]['memory'] / 2**30:.1f}",
            f"{one.losses[0]:.5f}",
            f"{one.losses[-1]:.5f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
