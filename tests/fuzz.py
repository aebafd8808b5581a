"""Damages every kind of file that the project reads; each is read, or refused in one line.

    python -m tests.fuzz [--seconds=60] [--only=xml,images] [--seed=0]

Samples of every kind are changed by hypothesis: bytes replaced, cut out, repeated or exchanged for
telling ones. A target fails where it raises anything but the project's own errors, takes longer
than `HANG` seconds, or needs more than `MEMORY` bytes beyond what the samples do.
"""

import argparse
import faulthandler
import io
import json
import logging
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from rsfm_jax.data.decode import BadImage, decode_mask, decode_rgb
from rsfm_jax.data.formats import dior, dota, loveda, potsdam
from rsfm_jax.data.statistics import apply_statistics
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.detection_match import Detections
from rsfm_jax.evaluation.detection_submission import read_submission, write_submission
from rsfm_jax.interop.files import read_tensors, write_tensors
from tests.toy import toy_config

HANG = 20  # seconds for one file
MEMORY = 2 << 30  # bytes: the largest image allowed takes a quarter of a GiB, decoded twice

DOTA = b"""imagesource:GoogleEarth
gsd:0.146343590398
2753.0 2408.0 2861.0 2385.0 2888.0 2468.0 2805.0 2502.0 plane 0
1 2 30 2 30 40 1 40 ship 1
"""
DIOR = b"""<annotation><filename>1.jpg</filename><size><width>800</width></size><object>
<name>ship</name><difficult>0</difficult><robndbox><x_left_top>1</x_left_top>
<y_left_top>2</y_left_top><x_right_top>9.5</x_right_top><y_right_top>2</y_right_top>
<x_right_bottom>9</x_right_bottom><y_right_bottom>7</y_right_bottom>
<x_left_bottom>1</x_left_bottom><y_left_bottom>7</y_left_bottom></robndbox></object></annotation>
"""
TELLING = (
    *(b"\x00", b"\xff" * 4, b"\x7f\xff\xff\xff", b"nan", b"1e999", b"-1", b"9" * 400, b"\n"),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"<object>" * 50, b"</object>", b"{}", b"[" * 9),
    *(b"../../x", b"None", b"True", b"()", b"1e400", b"'", "\u0661".encode()),
)


class Target(NamedTuple):
    """Files of one kind, and what reads them."""

    samples: Callable[[], list[bytes]]
    read: Callable[[bytes], object]


def picture(kind: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 4), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def written(write: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, name))
        return Path(folder, name).read_bytes()


def from_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    """Reads bytes through a file of that name."""

    def read_bytes(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, name).write_bytes(data)
            return read(Path(folder, name))

    return read_bytes


def read_statistics(file: Path) -> None:
    config = toy_config()
    config.data.statistics = str(file)
    apply_statistics(config)


def read_override(data: bytes) -> None:
    """One `--config.KEY=VALUE` as the commands take it."""
    from absl import flags

    from launch.config_flag import read_config
    from rsfm_jax.training.validate import COMMON_RULES, check_values

    flags.FLAGS.unparse_flags()
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)  # an earlier override
    arguments, sys.argv = sys.argv, ["main.py", "--config=tests/tiny.py", f"--config.{text(data)}"]
    try:
        check_values(read_config(sys.argv), COMMON_RULES)
    finally:
        sys.argv = arguments


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def read_scene(file: Path) -> None:
    from rsfm_jax.scenes.raster import Reading, Scene

    with Scene(file, "scene", Reading()) as scene:
        rows, columns = (slice(0, min(side, 64)) for side in scene.shape)
        scene.read(rows, columns)


def write_scene(file: Path) -> None:
    import rasterio

    options = {"driver": "GTiff", "width": 40, "height": 24, "count": 3, "dtype": "uint8"}
    place = rasterio.transform.from_origin(500000, 4000000, 0.5, 0.5)
    with rasterio.open(file, "w", crs="EPSG:32633", transform=place, **options) as scene:
        scene.write(np.random.default_rng(0).integers(0, 256, (3, 24, 40), np.uint8))


def write_torch(file: Path) -> None:
    import torch

    torch.save({"model": {"patch_embed.proj.weight": torch.ones(4, 3)}}, file)


def write_detections(file: Path) -> None:
    box = np.array([[[1.0, 2], [9, 2], [9, 7], [1, 7]]])
    found = Detections(np.array(["P1"]), box, np.array([0]), np.array([0.5]))
    write_submission(file, found, ("plane", "ship"))


def take_note(message: str) -> None:
    assert message and "\n" not in message


def masks() -> list[bytes]:
    deep = cv2.imencode(".tif", np.full((9, 9), 300, np.uint16))[1].tobytes()
    return [picture("PNG", "L"), picture("TIFF", "L"), deep]


def images() -> list[bytes]:
    kinds = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
    return [*(picture(kind) for kind in kinds), picture("JPEG", "CMYK"), *masks()]


def read_dota(data: bytes) -> None:
    found = dota.parse_labels(text(data), "x.txt", dota.CLASSES["2.0"], take_note)
    assert np.isfinite(found.polygons).all()


def read_dior(data: bytes) -> None:
    assert np.isfinite(dior.parse_labels(data, "x.xml", take_note).polygons).all()


def read_mask(data: bytes) -> None:
    values = decode_mask(data)
    loveda.decode_mask(values, "mask", take_note)
    potsdam.decode_mask(np.stack([values] * 3, -1), "mask", 6, take_note)


TENSORS = {"a": np.ones((3, 4), np.float32), "b": np.zeros(5, np.float32)}
STATISTICS = {"mean": [100.0, 90, 80], "std": [50.0, 40, 30]}
OVERRIDES = (b"seed=3", b"optimizer.betas=(0.9,0.95)", b"data.source=a", b"mesh.data=-1")
TARGETS = {
    "labels": Target(lambda: [DOTA], read_dota),
    "xml": Target(lambda: [DIOR], read_dior),
    "masks": Target(lambda: [*masks()[:2], picture("PNG", "P")], read_mask),
    "images": Target(images, decode_rgb),
    "overrides": Target(lambda: list(OVERRIDES), read_override),
    "statistics": Target(
        lambda: [json.dumps(STATISTICS).encode()], from_file(read_statistics, "stats_train.json")
    ),
    "submissions": Target(
        lambda: [written(write_detections, "a.zip")],
        from_file(lambda file: read_submission(file, ("plane", "ship")), "a.zip"),
    ),
    "safetensors": Target(
        lambda: [written(lambda file: write_tensors(file, TENSORS), "a.safetensors")],
        from_file(read_tensors, "a.safetensors"),
    ),
    "torch": Target(lambda: [written(write_torch, "a.pth")], from_file(read_tensors, "a.pth")),
    "rasterio": Target(lambda: [written(write_scene, "a.tif")], from_file(read_scene, "a.tif")),
}


def damaged(samples: list[bytes]) -> st.SearchStrategy[bytes]:
    """A sample with up to eight changes; positions are shares, denser in the first 100 bytes."""
    place = st.one_of(st.floats(0, 1), st.integers(0, 100))
    change = st.tuples(
        st.sampled_from(("put", "insert", "cut", "repeat", "end")),
        place,
        st.one_of(st.sampled_from(TELLING), st.binary(min_size=1, max_size=4)),
    )
    return st.builds(apply_changes, st.sampled_from(samples), st.lists(change, max_size=8))


def apply_changes(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, new in changes:
        at = place if isinstance(place, int) else int(place * len(data))
        if kind == "put":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "cut":
            data = data[:at] + data[at + len(new) :]
        elif kind == "repeat":
            data = data[:at] + data[at : at + 64] * 40 + data[at:]
        else:
            data = data[: max(at, 1)]
    return data


def fuzz(name: str, examples: int, number: int = 0) -> int:
    """Reads that many damaged files; returns how many were refused. Raises what should not be."""
    target, refused = TARGETS[name], 0
    samples = target.samples()
    for sample in samples:
        target.read(sample)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(samples))
    def read(data: bytes) -> None:
        nonlocal refused
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            target.read(data)
        except (UserError, BadImage) as error:
            assert str(error) and "\n" not in str(error), repr(str(error))
            refused += 1
        finally:
            faulthandler.cancel_dump_traceback_later()

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read()
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MEMORY, f"{name}: {grown:,} bytes"
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--only", default="", help="targets, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    for name in options.only.split(",") if options.only else TARGETS:
        began, number, read, refused = time.monotonic(), options.seed, 0, 0
        while time.monotonic() - began < options.seconds:
            refused += fuzz(name, 500, number)
            number, read = number + 1, read + 500
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"{name}: {read:,} files, {refused:,} refused, peak memory {peak:,} MiB", flush=True)


if __name__ == "__main__":
    main()
