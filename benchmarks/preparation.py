"""Images a second that pretraining preparation handles, beside the JPEG decoder's own limit.

    python benchmarks/preparation.py [--images 4096] [--workers 2]

Draws JPEG files of several sizes into a temporary folder, then measures on one core: reading and
decoding alone (libjpeg-turbo through simplejpeg), the conversion (decode, shrink, encode), and
the build of a whole shard (hashes, conversion, record writing); then the command on all files
with `--workers` processes, start-up and hashing for duplicates included. All are images a second
of processor time.
"""

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import simplejpeg

from data_prep.__main__ import main as data_prep
from data_prep.dataset import Item
from data_prep.datasets.image_folder import ImageFolder
from data_prep.images import encode_jpeg
from data_prep.shards import build_shard
from rsfm_jax.data.formats import stop
from rsfm_jax.data.synthetic import draw_scene

SIDES = (256, 512, 1024)  # pixels; only the first is at most the stored short side of 320
QUALITIES = range(78, 86)  # each scene is written once in each: other bytes, drawn once
ON_ONE_CORE = 1024  # files


def seconds(work: Callable[[], None]) -> float:
    """Time of `work()` on a core, this process and its children; it holds on a busy machine too."""
    before = os.times()
    work()
    return sum(os.times()[:4]) - sum(before[:4])


def draw_files(folder: Path, side: int, count: int) -> None:
    """Writes `count` JPEG files, no two the same."""
    folder.mkdir(parents=True)
    for number in range(count):
        scene, quality = divmod(number, len(QUALITIES))
        if quality == 0:
            image = draw_scene(scene, side).image
        (folder / f"{number:06d}.jpg").write_bytes(encode_jpeg(image, QUALITIES[quality]))


def measure(side: int, count: int, workers: int) -> list[str]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / f"side{side}"
        draw_files(folder, side, count)
        dataset = ImageFolder(source=str(folder))
        paths = sorted(folder.iterdir())[:ON_ONE_CORE]
        items = [Item(path.name, (path.name,)) for path in paths]

        def decode() -> None:
            for path in paths:
                simplejpeg.decode_jpeg(path.read_bytes())

        def convert() -> None:
            for item in items:
                dataset.convert(item, stop)

        def shard() -> None:
            target = Path(temporary) / "shard"
            build_shard(dataset, dataset.features(), items, target, "stop")

        def command() -> None:
            arguments = ["build", "image_folder", f"--source={folder}", f"--data_dir={temporary}"]
            with contextlib.redirect_stdout(io.StringIO()):
                assert data_prep([*arguments, f"--workers={workers}"]) == 0

        kib = sum(path.stat().st_size for path in paths) / len(paths) / 1024
        rates = [len(paths) / seconds(work) for work in (decode, convert, shard)]
        rates.append(count / seconds(command))
    minutes = 1e6 / (rates[3] * 16) / 60
    return [
        *(f"{side}", f"{kib:.0f}"),
        *(f"{rate:,.0f}" for rate in rates),
        f"{rates[3] / rates[0]:.2f}",
        f"{minutes:.1f}",
    ]


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    columns = [
        "side px",
        "KiB",
        "decode only",
        "convert",
        "shard",
        "command",
    ]
    columns += ["command / decode", "minutes for 1M on 16 cores"]
    print(" | ".join(columns))
    print(" | ".join("---" for _ in columns))
    for side in SIDES:
        print(" | ".join(measure(side, options.images, options.workers)), flush=True)


if __name__ == "__main__":
    main()
